"""The judge turns red on each thing that may be wrong with a report, and on nothing else."""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

import judge

ALL = [f"{number}.*" for number in judge.GROUPS]


def sound():
    """A report as wstest writes it, of a server that gets everything right."""
    cases = {}
    for number, count in judge.GROUPS.items():
        for case in range(1, count + 1):
            name = f"{number}.{case}.1" if number != 7 else f"7.1.{case + 6}"
            cases[name] = verdict("OK")
    # Three of group 7 have names of their own.
    for name, plain in zip(sorted(judge.INFORMATIONAL), ["7.1.7", "7.1.8", "7.1.9"]):
        del cases[plain]
        cases[name] = verdict("INFORMATIONAL", "INFORMATIONAL")
    return cases


def verdict(behavior, close="OK", code=1000):
    return {
        "behavior": behavior,
        "behaviorClose": close,
        "duration": 2,
        "remoteCloseCode": code,
        "reportfile": "tidegate_case.json",
    }


class Judge(unittest.TestCase):
    def verdict_on(self, cases, required=ALL):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "index.json"), "w", encoding="utf-8") as file:
                json.dump({"tidegate": cases}, file)
            out = io.StringIO()
            arguments, sys.argv = sys.argv, ["judge.py", "--require", *required, "--", folder]
            try:
                with contextlib.redirect_stdout(out):
                    code = judge.main()
            finally:
                sys.argv = arguments
            return code, out.getvalue()

    def test_a_sound_report_is_green(self):
        code, text = self.verdict_on(sound())
        self.assertEqual(code, 0, text)
        self.assertIn("\n517 passed, 0 failed\n", text)

    def test_doctored_verdicts_are_red(self):
        doctored = [
            ("6.3.1", verdict("FAILED"), "FAILED"),
            ("5.3.1", verdict("NON-STRICT"), "NON-STRICT"),
            ("12.3.1", verdict("UNIMPLEMENTED"), "UNIMPLEMENTED"),
            ("13.9.1", verdict("UNIMPLEMENTED"), "UNIMPLEMENTED"),
            ("1.4.1", verdict("OK", "UNCLEAN"), "UNCLEAN"),
            ("2.4.1", verdict("OK", "FAILED"), "FAILED"),
            ("3.4.1", verdict("OK", "WRONG CODE", 1002), "WRONG CODE"),
            ("4.4.1", verdict("OK", "FAILED BY CLIENT"), "FAILED BY CLIENT"),
            ("9.4.1", verdict("INFORMATIONAL"), "INFORMATIONAL"),
            ("9.5.1", verdict("OK", "INFORMATIONAL"), "INFORMATIONAL"),
            ("10.1.1", verdict("SOMETHING NEW"), "SOMETHING NEW"),
        ]
        for name, case, why in doctored:
            cases = sound()
            self.assertIn(name, cases)
            cases[name] = case
            code, text = self.verdict_on(cases)
            self.assertEqual(code, 1, f"{name} {case}")
            first = text.splitlines()[0]
            self.assertTrue(first.startswith(f"FAILED {name}: ") and why in first, first)
            self.assertIn("tidegate_case.json", text)
            self.assertIn("\n516 passed, 1 failed\n", text)

    def test_cases_that_did_not_run_are_red(self):
        cases = sound()
        del cases["6.7.1"]
        code, text = self.verdict_on(cases)
        self.assertEqual(code, 1)
        self.assertIn("6.*: 144 of 145 cases", text)
        code, text = self.verdict_on(sound(), [*ALL, "12.5.18"])
        self.assertEqual(code, 1)
        self.assertIn("12.5.18: 0 of 1 cases", text)

    def test_no_report_is_red(self):
        code, text = self.verdict_on({}, [])
        self.assertEqual(code, 1)
        self.assertIn("0 passed, 1 failed", text)

    def test_a_case_that_failed_in_one_of_two_reports_is_red(self):
        cases = [
            judge.Case("1.1.1", "OK", "OK", 1000, "a"),
            judge.Case("1.1.1", "FAILED", "OK", 1000, "b"),
        ]
        out = io.StringIO()
        self.assertEqual(judge.judge(cases, ["1.1.1"], out), (0, 1), out.getvalue())


if __name__ == "__main__":
    unittest.main()

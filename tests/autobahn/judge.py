#!/usr/bin/env python3
"""Judges what Autobahn|Testsuite reported: which cases failed, and whether all that should have run did.

    judge.py [--require PATTERN ...] FOLDER ...

Each FOLDER holds an `index.json` that wstest wrote. Green is only a report in which every case that
was asked for stands with a verdict on the list below and a clean close; README.md tells why.
"""

import argparse
import collections
import fnmatch
import json
import os
import sys

# How many cases each group of the pinned suite has. Where they don't come out, it is another suite.
GROUPS = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1, 12: 90, 13: 126}

# NON-STRICT: right, but not as strict as it could be. None is: a case goes on this list with its
# reason behind it, and only if the RFC leaves the choice.
NON_STRICT_ALLOWED = {}

# The cases that have no right answer: the suite writes down what the server did, and that is all.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}

Case = collections.namedtuple("Case", "name verdict close code report")


def key(name):
    return [int(part) for part in name.split(".")]


def group(name):
    return key(name)[0]


def read(folder):
    """The cases of one report, of whichever agent."""
    with open(os.path.join(folder, "index.json"), encoding="utf-8") as file:
        agents = json.load(file)
    for cases in agents.values():
        for name, case in cases.items():
            yield Case(
                name,
                case["behavior"],
                case["behaviorClose"],
                case.get("remoteCloseCode"),
                os.path.join(folder, case["reportfile"]),
            )


def fault(case):
    """What is wrong with a case; none if nothing is."""
    if case.verdict == "NON-STRICT" and case.name not in NON_STRICT_ALLOWED:
        return "NON-STRICT, and not on the list of those that may be"
    if case.verdict == "INFORMATIONAL" and case.name not in INFORMATIONAL:
        return "INFORMATIONAL, though it has a right answer"
    if case.verdict == "UNIMPLEMENTED":
        return "UNIMPLEMENTED: the extension was not negotiated"
    if case.verdict not in ("OK", "NON-STRICT", "INFORMATIONAL"):
        return case.verdict
    if case.close != "OK" and not (case.close == "INFORMATIONAL" and case.name in INFORMATIONAL):
        return f"close {case.close}"
    return None


def wanted(patterns):
    """How many cases each pattern must have brought: all of a group, or one."""
    return {
        pattern: GROUPS[int(pattern[:-2])] if pattern.endswith(".*") else 1 for pattern in patterns
    }


def judge(cases, required, out=None):
    """Prints what is wrong, then a count by group; gives how many passed and how many did not."""
    by_name = {}
    faults = []
    for case in cases:
        by_name.setdefault(case.name, case)
        why = fault(case)
        if why:
            faults.append((case, why))
    faults.sort(key=lambda pair: key(pair[0].name))
    for case, why in faults:
        code = "" if case.code is None else f", closed with {case.code}"
        print(f"FAILED {case.name}: {why}{code}\n       {case.report}", file=out)
    missing = 0
    for pattern, count in wanted(required).items():
        found = len(fnmatch.filter(by_name, pattern))
        if found != count:
            print(f"FAILED {pattern}: {found} of {count} cases were reported", file=out)
            missing += max(1, count - found)
    bad = {case.name for case, _ in faults}
    for number in sorted({group(name) for name in by_name}):
        names = [name for name in by_name if group(name) == number]
        failed = sum(name in bad for name in names)
        print(f"group {number:>2}: {len(names) - failed} passed, {failed} failed", file=out)
    verdicts = collections.Counter(case.verdict for case in by_name.values())
    print("verdicts: " + ", ".join(f"{v} {n}" for v, n in sorted(verdicts.items())), file=out)
    return len(by_name) - len(bad), len(bad) + missing


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--require", nargs="*", default=[], metavar="PATTERN",
                        help="cases that must stand in the report: 9.* or 12.1.3")
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    options = parser.parse_args()
    try:
        cases = [case for folder in options.folders for case in read(folder)]
    except (OSError, ValueError, KeyError) as error:
        print(f"no report that can be read: {error!r}")
        cases = []
    passed, failed = judge(cases, options.require)
    if not cases:
        failed = max(1, failed)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

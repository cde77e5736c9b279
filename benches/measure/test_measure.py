"""Tests of what makes figures, tables and plots out of raw rounds."""

import json
import tempfile
import unittest
import xml.dom.minidom
from pathlib import Path

import cases
import main
import plot
import report
import summary

ECHO = cases.all_cases(1000)[0]
CORES = next(case for case in cases.all_cases(1000) if case.name == "cores-1000")


def entry(number, server, cpu, **more):
    figures = {"server": {"cpu_us_per_message": {"total": cpu}, "waited_share": 0.0}}
    return {"round": number, "case": "x", "server": server, "load_average": 0.1, "compilers": 0,
            "figures": figures, **more}  # fmt: skip


def result():
    entries = [entry(n, server, cpu + n) for n in (1, 2, 3)
               for server, cpu in (("tidegate", 5), ("floor", 4), ("axum", 9), ("tungstenite", 7))]  # fmt: skip
    del entries[-1]["figures"]
    entries[-1]["failure"] = "the server died"
    return {
        "commit": "0123456789abcdef", "uncommitted_changes": False, "begun": "2026-01-02T03:04:05Z",
        "minutes": 1.0, "settings": main.settings(), "cut_short": None,
        "machine": {"cpu": "A & B", "cpus": 2, "kernel": "6.12"},
        "versions": {"tidegate": "tidegate 1", "rustc": "rustc 1", "gateway": {"monoio": "1"},
                     "floor": {}, "rivals": {"axum": "2"}},
        "limits": {"limits": {"rate": 5}}, "large_messages": [], "commands": {},
        "not_measured": {"fastwebsockets": "does not build: error: no"},
        "doubts": summary.doubts(entries),
        "summary": {ECHO.name: summary.summarise(ECHO, entries)}, "rounds": entries,
    }  # fmt: skip


class Summary(unittest.TestCase):
    def test_ratios_are_taken_round_by_round(self):
        entries = [entry(1, "tidegate", 4), entry(1, "floor", 2), entry(1, "axum", 8),
                   entry(2, "tidegate", 9), entry(2, "floor", 3), entry(2, "axum", 9),
                   entry(1, "tungstenite", 20)]  # fmt: skip
        ratios = summary.summarise(ECHO, entries)["ratios"]
        self.assertEqual(ratios["floor"], {"of": "floor", "median": 2.5, "min": 2, "max": 3})
        self.assertEqual(ratios["best_rival"]["of"], "axum")
        self.assertEqual(ratios["best_rival"]["median"], 0.75)

    def test_a_crossing_is_what_half_of_the_deliveries_cost_more(self):
        entries = [entry(1, "tidegate", 4), entry(1, cases.TWO_WORKERS, 5)]
        ratios = summary.summarise(CORES, entries)["ratios"]
        self.assertEqual(ratios["two_workers"]["median"], 1.25)
        self.assertEqual(ratios["crossing"]["median"], 1.5)
        self.assertNotIn("best_rival", ratios)

    def test_compression_is_held_against_none(self):
        case = next(case for case in cases.all_cases(1000) if case.name == "fanout-4KiB-deflate")
        entries = [entry(1, "tidegate", 4), entry(1, cases.DEFLATE, 5),
                   entry(2, "tidegate", 4), entry(2, cases.DEFLATE, 6)]  # fmt: skip
        ratios = summary.summarise(case, entries)["ratios"]
        self.assertEqual(ratios["deflate"]["median"], 1.375)
        self.assertEqual(set(ratios), {"deflate"})

    def test_failures_are_told_and_give_no_figure(self):
        found = result()["summary"][ECHO.name]["servers"]
        self.assertEqual(found["tungstenite"]["failures"], ["the server died"])
        self.assertEqual(found["tungstenite"]["rounds"], 2)
        self.assertNotIn("first", found["fastwebsockets"])

    def test_doubts_name_compilers_waits_and_notes(self):
        busy = entry(1, "floor", 1, compilers=2)
        busy["figures"]["server"]["waited_share"] = 0.5
        busy["figures"]["notes"] = ["the generator was busy"]
        self.assertEqual(len(summary.doubts([busy])), 3)
        self.assertEqual(summary.doubts([entry(1, "floor", 1)]), [])


class Plan(unittest.TestCase):
    def test_everybody_is_first_once_and_nobody_is_left_out(self):
        chosen = {**main.settings(), "ROUNDS": "6", "IDLE_ROUNDS": "0", "SLOW_ROUNDS": "0"}
        rounds = main.plan([ECHO], chosen, {})
        self.assertEqual({turns[0][1] for _, turns in rounds}, set(ECHO.servers))
        for _, turns in rounds:
            self.assertEqual({server for _, server in turns}, set(ECHO.servers))

    def test_who_is_not_built_is_not_measured(self):
        rounds = main.plan([ECHO], main.settings(), {"axum": "is not built"})
        self.assertNotIn("axum", [server for _, turns in rounds for _, server in turns])

    def test_cases_are_picked_by_name_pattern_and_group(self):
        every = cases.all_cases(10)
        names = lambda *words: [case.name for case in cases.pick(every, words)[0]]  # noqa: E731
        self.assertEqual(names("idle-tls", "echo-20B"), ["echo-20B", "idle-tls"])
        self.assertEqual(names("connect*"), ["connect", "connect-tls", "connect-tls-resumed"])
        self.assertEqual(len(names("plain", "tls", "deflate")), len(every))
        self.assertEqual(names("all"), [case.name for case in every])
        self.assertEqual(len({case.name for case in every}), len(every))
        self.assertEqual(cases.pick(every, ["plain", "nonsense", "x*"])[1], ["nonsense", "x*"])

    def test_over_tls_everybody_has_the_same_certificate(self):
        case = next(case for case in cases.all_cases(10) if case.name == "echo-tls-20B")
        place = cases.Place("gw", "c.pem", "k.pem")
        self.assertNotIn("floor", case.servers)
        command = cases.server_command(case, "axum", 0, place)
        self.assertEqual(command[-2:], ["--tls", "c.pem:k.pem"])
        command = cases.server_command(case, "tidegate", 0, place)
        self.assertEqual(command[0], "gw")
        self.assertIn('tls.certificates=[{certificate="c.pem",key="k.pem"}]', command)
        self.assertIn("server.listen=[]", command)
        load = cases.generator_command("gen", case, "axum", 80, 7, main.settings(), place)
        self.assertEqual(load[2], "wss://127.0.0.1:80/echo")
        self.assertIn("--ca", load)
        case = next(case for case in cases.all_cases(10) if case.name == "connect-tls")
        load = cases.generator_command("gen", case, "axum", 80, 7, main.settings(), place)
        self.assertIn("--insecure", load)

    def test_what_cases_need_is_checked(self):
        kinds = lambda server, *words: main.check_kinds(  # noqa: E731
            server, cases.pick(cases.all_cases(10), words)[0])  # fmt: skip
        self.assertEqual(kinds("tidegate", "plain"), ["echo"])
        self.assertEqual(kinds("tidegate", "all"), ["echo", "tls", "deflate"])
        self.assertEqual(kinds("axum", "tls"), ["echo", "tls"])
        self.assertEqual(kinds("floor", "all"), ["echo", "room"])
        self.assertEqual(kinds("broadcast", "deflate"), ["room"])

    def test_commands_name_what_differs(self):
        large = next(case for case in cases.all_cases(10) if case.is_large)
        self.assertIn("limits.message_bytes_max=2MiB", cases.server_command(large, "tidegate", 0))
        self.assertIn("--message-bytes-max", cases.server_command(large, "axum", 0))
        self.assertNotIn("--message-bytes-max", cases.server_command(ECHO, "axum", 0))
        load = cases.generator_command("gen", ECHO, "axum", 80, 7, main.settings())
        self.assertEqual(load[:3], ["gen", "bench", "ws://127.0.0.1:80/echo"])


class Output(unittest.TestCase):
    def test_the_table_names_all_servers_and_those_that_are_missing(self):
        text = report.table(result())
        for word in (*ECHO.servers, "does not build", "1 rounds failed", "× floor", "1 doubts"):
            self.assertIn(word, text)

    def test_the_table_replaces_only_what_stands_between_the_marks(self):
        with tempfile.TemporaryDirectory() as folder:
            readme = Path(folder) / "README.md"
            readme.write_text(f"a\n{report.BEGIN}\nold\n{report.END}\nb\n")
            report.put(readme, "new\n")
            self.assertEqual(readme.read_text(), f"a\n{report.BEGIN}\nnew\n{report.END}\nb\n")

    def test_the_result_file_is_json_with_a_line_for_each_round(self):
        whole = result()
        text = report.dump(whole)
        self.assertEqual(json.loads(text), whole)
        self.assertGreaterEqual(len(text.splitlines()), len(whole["rounds"]))

    def test_plots_are_xml_and_show_every_server(self):
        whole = result()
        case = whole["summary"][ECHO.name]
        text = plot.svg("x", case, whole)
        xml.dom.minidom.parseString(text)
        for server in ECHO.servers:
            self.assertIn(server, text)
        self.assertIn("not measured", text)

    def test_ticks_are_few_and_begin_at_zero(self):
        for top in (0.05, 0.3, 0.9, 1, 4.9, 17, 50, 399, 1000, 13840):
            ticks = plot.ticks(top)
            self.assertEqual(ticks[0], 0)
            self.assertLessEqual(ticks[-1], top)
            self.assertTrue(3 <= len(ticks) <= 7, f"{top}: {ticks}")


if __name__ == "__main__":
    unittest.main()

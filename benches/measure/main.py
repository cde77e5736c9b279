"""Measures, in turns, what `bench-results/run` has built, and writes what came out.

It is started by that script, which says what can be set.
"""

import datetime
import json
import os
import re
import resource
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cases
import machine
import plot
import report
import summary

DESCRIPTORS = 20_000
START_SECONDS = 10
# What a measurement may take beyond its own time before it counts as hung.
GRACE_SECONDS = 60
# Gives a process a scheduling group of its own with more weight, where that is allowed.
OWN_GROUP = 'echo -20 2>/dev/null > /proc/self/autogroup; exec "$@"'


def settings():
    defaults = {
        "ROUNDS": "7", "IDLE_ROUNDS": "2", "SLOW_ROUNDS": "3", "DURATION": "1.2", "WARM_UP": "0.4",
        "IDLE_CONNECTIONS": "15000", "CASES": "", "SERVER_CORE": "0", "LOAD_CORE": "1",
        "OUT": "bench-results", "MINUTES_MAX": "20", "GENERATOR": "target/release/tidegate",
        "GATEWAY": "target/release/tidegate",
    }  # fmt: skip
    return {name: os.environ.get(name) or value for name, value in defaults.items()}


class Failure(Exception):
    """One measurement failed; the others go on."""


class Runner:
    def __init__(self, work, chosen):
        self.work, self.settings = work, chosen
        self.children = []
        self.commands = {}
        self.place = cases.Place(
            chosen["GATEWAY"], f"{work}/dev-cert.pem", f"{work}/dev-key.pem"
        )

    def certify(self):
        """Makes the certificate that all servers use. It lives as long as the run."""
        command = [self.place.gateway, "dev-cert", "--out", self.work]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"run: {' '.join(command)}: {done.stderr.strip()}")

    def spawn(self, core, command, **pipes):
        """A process pinned to a core, in a session and a scheduling group of its own."""
        whole = ["sh", "-c", OWN_GROUP, "sh", "taskset", "-c", str(core), *command]
        child = subprocess.Popen(whole, start_new_session=True, text=True, **pipes)
        self.children.append(child)
        return child

    def end(self, child):
        """Ends one process of ours and waits for its end."""
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.children.remove(child)

    def end_all(self):
        for child in list(self.children):
            self.end(child)

    def start(self, server, command, log):
        cores = cases.cores_of(server, self.settings["SERVER_CORE"])
        child = self.spawn(cores, command, stdout=subprocess.PIPE, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        port, rest = None, ""
        while time.monotonic() < deadline:
            readable, _, _ = select.select([child.stdout], [], [], 0.2)
            if not readable:
                continue
            piece = os.read(child.stdout.fileno(), 4096).decode(errors="replace")
            if not piece:
                break
            rest += piece
            found = re.search(r"listening +wss?://127\.0\.0\.1:(\d+)/", rest)
            port = int(found.group(1)) if found else port
            if port and re.search(r"^ *ready", rest, re.MULTILINE):
                for thread in Path(f"/proc/{child.pid}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), {int(self.settings["SERVER_CORE"])})
                return child, port
        self.end(child)
        log.flush()
        last = Path(log.name).read_text().strip().splitlines()[:3]
        raise Failure(f"the server did not start: {' '.join(last)}"[:300])

    def measure(self, case, server):
        """One fresh server, one load: the generator's figures."""
        chosen = self.settings
        command = cases.server_command(case, server, chosen["SERVER_CORE"], self.place)
        with open(Path(self.work) / "server.log", "w") as log:
            child, port = self.start(server, command, log)
        try:
            load = cases.generator_command(
                chosen["GENERATOR"], case, server, port, child.pid, chosen, self.place
            )
            self.note(case, server, command, load, port, child.pid)
            generator = self.spawn(
                chosen["LOAD_CORE"], load, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            limit = cases.duration(case, chosen) + float(chosen["WARM_UP"]) + GRACE_SECONDS
            try:
                out, err = generator.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                raise Failure(f"the generator did not end within {limit:.0f} s") from None
            finally:
                self.end(generator)
            if generator.returncode != 0:
                raise Failure(what_failed(generator.returncode, out, err))
            if child.poll() is not None:
                raise Failure("the server died")
            return json.loads(out)
        finally:
            self.end(child)

    def note(self, case, server, command, load, port, pid):
        line = lambda core, words: "taskset -c {} {}".format(core, shlex.join(words))  # noqa: E731
        core = self.settings["SERVER_CORE"]
        cores = cases.cores_of(server, core)
        moved = f"; taskset -a -c -p {core} PID" if cores != core else ""
        load = [word.replace(f":{port}/", ":PORT/") for word in load]
        load = ["PID" if word == str(pid) else word for word in load]
        # `dev-cert --out WORK` has made what lies there.
        command, load = ([w.replace(self.work, "WORK") for w in ws] for ws in (command, load))
        self.commands.setdefault(case.name, {})[server] = {
            "server": line(cores, command) + moved,
            "generator": line(self.settings["LOAD_CORE"], load),
        }


def what_failed(code, out, err):
    """One line out of the generator's end."""
    faults = ""
    if code == 3 and out.strip().startswith("{"):
        faults = json.dumps(json.loads(out).get("faults"))
    last = (err.strip().splitlines() or [""])[-1]
    return f"the generator ended with {code} {faults}{last}".strip()


def is_built(server):
    place = "benches/floor" if server == cases.FLOOR else "benches/rivals"
    return server in cases.VARIANTS or Path(f"{place}/target/release/{server}").exists()


def plan(chosen_cases, chosen, missing):
    """Who is measured in which round, in order. Whoever goes first changes with the round."""
    counts = {"rounds": "ROUNDS", "idle": "IDLE_ROUNDS", "slow": "SLOW_ROUNDS"}
    rounds = []
    for number in range(1, max(int(chosen[name]) for name in counts.values()) + 1):
        turns = []
        for case in chosen_cases:
            if number > int(chosen[counts[case.kind]]):
                continue
            servers = [server for server in case.servers if server not in missing]
            shift = (number - 1) % max(len(servers), 1)
            turns += [(case, server) for server in servers[shift:] + servers[:shift]]
        if turns:
            rounds.append((number, turns))
    return rounds


def seconds(turns, chosen):
    timed = lambda case: cases.duration(case, chosen) + float(chosen["WARM_UP"])  # noqa: E731
    return sum(case.overhead + (timed(case) if case.is_timed else 0) for case, _ in turns)


def check(runner, servers, picked):
    """Whether each server does what it is measured for; a check of bytes, not of speed."""
    wrong = {}
    every = {case.name: case for case in cases.all_cases(10)}
    echo, room, tls = (every[name] for name in ("echo-20B", "fanout-1000", "echo-tls-20B"))
    kinds = {"echo": echo, "room": room, "tls": tls, "deflate": echo}
    for server in servers:
        for kind in check_kinds(server, picked):
            command = cases.server_command(
                kinds[kind], server, runner.settings["SERVER_CORE"], runner.place
            )
            trust = [runner.place.certificate] if kind == "tls" else []
            try:
                with open(Path(runner.work) / "server.log", "w") as log:
                    child, port = runner.start(server, command, log)
                try:
                    done = subprocess.run(
                        [sys.executable, "benches/check.py", kind, str(port), *trust],
                        capture_output=True, text=True, timeout=60,
                    )  # fmt: skip
                finally:
                    runner.end(child)
                if done.returncode != 0:
                    raise Failure((done.stderr.strip().splitlines() or ["no reason given"])[-1])
            except (Failure, subprocess.TimeoutExpired) as failure:
                wrong[server] = f"does not pass its check ({kind}): {failure}"
                break
            print(f"  {server}: {kind} checked", flush=True)
    return wrong


def check_kinds(server, picked):
    """What of a server is checked: as much as the cases need of it."""
    own = [case for case in picked if server in case.servers]
    kinds = ["tls"] if any(case.is_tls for case in own) else []
    if server == cases.GATEWAY:
        asks = any(cases.DEFLATE in case.servers for case in picked)
        return ["echo", *kinds, *(["deflate"] if asks else [])]
    rooms = {cases.FLOOR: ["echo", "room"], "broadcast": ["room"]}
    return rooms.get(server, ["echo"]) + kinds


def missing_servers(failed_builds, chosen_cases):
    """Servers that can't be measured, with the reason."""
    missing = {}
    for path in sorted(Path(failed_builds).glob("*")):
        missing[path.name] = f"does not build: {path.read_text().strip()}"
    for case in chosen_cases:
        for server in case.servers:
            if server not in missing and not is_built(server):
                missing[server] = "is not built"
    return missing


def main():
    chosen = settings()
    begun = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    since = time.monotonic() - float(os.environ.get("ELAPSED", "0"))
    every = cases.all_cases(int(chosen["IDLE_CONNECTIONS"]))
    picked, unknown = cases.pick(every, chosen["CASES"].replace(",", " ").split() or ["plain"])
    if unknown:
        sys.exit(f"run: no such case: {', '.join(unknown)}; "
                 f"there are {', '.join(case.name for case in every)}")  # fmt: skip
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    except (ValueError, OSError):
        sys.exit(f"run: this needs {DESCRIPTORS} descriptors for each process")
    with tempfile.TemporaryDirectory() as work:
        runner = Runner(work, chosen)

        def stop(*_):
            runner.end_all()
            sys.exit(130)

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        try:
            if any(case.is_tls for case in picked):
                runner.certify()
            return measure_all(runner, picked, begun, since)
        finally:
            runner.end_all()


def measure_all(runner, picked, begun, since):
    chosen = runner.settings
    missing = missing_servers(os.environ.get("FAILED_BUILDS", "/nonexistent"), picked)
    servers = list(dict.fromkeys(server for case in picked for server in case.servers))
    variants = cases.VARIANTS - {cases.GATEWAY}
    servers = [s for s in servers if s not in missing and s not in variants]
    print("what the servers do is checked", flush=True)
    missing |= check(runner, servers, picked)
    if cases.GATEWAY in missing:
        missing |= {variant: missing[cases.GATEWAY] for variant in variants}
    for server, reason in missing.items():
        print(f"  NOT MEASURED: {server} {reason}", flush=True)

    rounds = plan(picked, chosen, missing)
    turns = [turn for _, own in rounds for turn in own]
    print(f"{len(picked)} cases, {len(turns)} measurements in {len(rounds)} rounds, "
          f"about {seconds(turns, chosen) / 60:.1f} minutes", flush=True)  # fmt: skip
    entries, cut = [], None
    for number, own in rounds:
        minutes = (time.monotonic() - since + seconds(own, chosen)) / 60
        if entries and minutes > float(chosen["MINUTES_MAX"]):
            cut = f"stopped before round {number}: it would have taken more than " + (
                f"{chosen['MINUTES_MAX']} minutes"
            )
            print(cut, flush=True)
            break
        for case, server in own:
            load_average, compilers = machine.quiet()
            entry = {"round": number, "case": case.name, "server": server,
                     "load_average": load_average, "compilers": compilers}  # fmt: skip
            try:
                entry["figures"] = runner.measure(case, server)
            except Failure as failure:
                entry["failure"] = str(failure)
            entries.append(entry)
            print(report.line(case, entry), flush=True)

    result = {
        "version": 1,
        "begun": begun,
        "minutes": round((time.monotonic() - since) / 60, 1),
        "command": "bench-results/run",
        "settings": chosen,
        **machine.describe(),
        "limits": machine.limits(),
        "large_messages": cases.large_settings(),
        "not_measured": missing,
        "cut_short": cut,
        "commands": runner.commands,
        "doubts": summary.doubts(entries),
        "summary": {
            case.name: summary.summarise(case, [e for e in entries if e["case"] == case.name])
            for case in picked
        },
        "rounds": entries,
    }
    write(result, Path(chosen["OUT"]))
    failed = [entry for entry in entries if "failure" in entry]
    if failed or missing:
        print(f"run: {len(failed)} measurements failed, {len(missing)} servers were not measured; "
              "the table says which", file=sys.stderr)  # fmt: skip
        return 1
    return 0


def write(result, out):
    (out / "plots").mkdir(parents=True, exist_ok=True)
    # A case that is not measured any more must not keep its old picture beside new figures.
    whole = not result["settings"]["CASES"]
    if whole:
        for old in (*out.glob("plots/*.svg"), *out.glob("plots/*.png")):
            old.unlink()
    (out / "results.json").write_text(report.dump(result))
    for name, case in result["summary"].items():
        plot.write(out / "plots" / name, case, result)
    table = report.table(result)
    (out / "table.md").write_text(table)
    if out == Path("bench-results"):
        report.put(Path("bench-results/README.md"), table)
    print(table)


if __name__ == "__main__":
    sys.exit(main())

"""What the measurements ran on, and with which versions and limits."""

import os
import platform
import re
import subprocess
import tomllib
from pathlib import Path

LOCKS = {
    "gateway": (
        "Cargo.lock", ["monoio", "io-uring", "mimalloc", "rustls", "aws-lc-rs", "libz-sys"],
    ),
    "floor": ("benches/floor/Cargo.lock", ["io-uring"]),
    "rivals": (
        "benches/rivals/Cargo.lock",
        ["tokio", "tokio-tungstenite", "tungstenite", "tokio-websockets", "fastwebsockets", "axum",
         "hyper", "mimalloc", "tokio-rustls", "rustls", "aws-lc-rs"],
    ),
}  # fmt: skip


def output(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def locked(path, names):
    if not Path(path).exists():
        return {}
    packages = tomllib.loads(Path(path).read_text())["package"]
    return {name: ", ".join(p["version"] for p in packages if p["name"] == name) for name in names}


def first(path, pattern):
    try:
        match = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return match.group(1).strip() if match else None


def describe():
    memory = first("/proc/meminfo", r"^MemTotal:\s*(\d+)")
    return {
        "commit": output("git", "rev-parse", "HEAD"),
        "uncommitted_changes": bool(
            output("git", "status", "--porcelain", "--", ".", ":!bench-results")
        ),
        "machine": {
            "cpu": first("/proc/cpuinfo", r"^model name\s*:(.*)$") or platform.machine(),
            "cpus": os.cpu_count(),
            "memory_kib": int(memory) if memory else None,
            "kernel": platform.release(),
            "transparent_hugepages": first(
                "/sys/kernel/mm/transparent_hugepage/enabled", r"\[(\w+)\]"
            ),
            "somaxconn": first("/proc/sys/net/core/somaxconn", r"(.*)"),
            "local_ports": first("/proc/sys/net/ipv4/ip_local_port_range", r"(.*)"),
            "tcp_rmem": first("/proc/sys/net/ipv4/tcp_rmem", r"(.*)"),
            "tcp_wmem": first("/proc/sys/net/ipv4/tcp_wmem", r"(.*)"),
        },
        "versions": {
            "rustc": output("rustc", "--version"),
            "tidegate": output("target/release/tidegate", "--version"),
            **{name: locked(*where) for name, where in LOCKS.items()},
        },
        "mimalloc_allow_thp": os.environ.get("MIMALLOC_ALLOW_THP", "default"),
    }


def limits():
    """The gateway's limits as it is measured, from its configuration."""
    config = tomllib.loads(Path("configs/benchmark.toml").read_text())
    return {name: config[name] for name in ("limits", "rooms", "tls", "deflate", "engine")}


def quiet():
    """The load average of the last minute, and how many compilers run."""
    names = output("ps", "-e", "-o", "comm=") or ""
    compilers = re.findall(r"^(?:rustc|cc1|cc1plus|ld|clang|lld|rust-lld)$", names, re.MULTILINE)
    return float(Path("/proc/loadavg").read_text().split()[0]), len(compilers)

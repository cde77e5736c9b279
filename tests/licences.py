#!/usr/bin/env python3
"""Fails when a dependency has a licence that is not on the list, or none at all.

Reads `cargo metadata`, so it needs nothing that a Rust toolchain doesn't bring. All dependencies
count, those of the tests and of the build too, on the platforms that the gateway runs on.
"""

import json
import re
import subprocess
import sys

# Licences that ask for no more than their text being kept.
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    # libFuzzer, of LLVM: in no binary but that of fuzz/run.
    "NCSA",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}
PLATFORMS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]


def is_allowed(expression):
    """Evaluates an SPDX expression: OR needs one side, AND both."""
    # Before SPDX expressions, crates wrote `A/B` for `A OR B`.
    tokens = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))
    result, rest = parse_or(tokens)
    if rest:
        raise ValueError(f"not an SPDX expression: {expression!r}")
    return result


def parse_or(tokens):
    result, tokens = parse_and(tokens)
    while tokens and tokens[0].upper() == "OR":
        right, tokens = parse_and(tokens[1:])
        result = result or right
    return result, tokens


def parse_and(tokens):
    result, tokens = parse_one(tokens)
    while tokens and tokens[0].upper() == "AND":
        right, tokens = parse_one(tokens[1:])
        result = result and right
    return result, tokens


def parse_one(tokens):
    if not tokens:
        raise ValueError("an SPDX expression ends too early")
    if tokens[0] == "(":
        result, tokens = parse_or(tokens[1:])
        if not tokens or tokens[0] != ")":
            raise ValueError("an SPDX expression lacks a parenthesis")
        return result, tokens[1:]
    name, tokens = tokens[0], tokens[1:]
    if len(tokens) > 1 and tokens[0].upper() == "WITH":
        name, tokens = f"{name} WITH {tokens[1]}", tokens[2:]
    return name in ALLOWED, tokens


def dependencies():
    """Every package that is not this repository's own, once."""
    packages = {}
    for platform in PLATFORMS:
        command = ["cargo", "metadata", "--format-version", "1", "--filter-platform", platform]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        metadata = json.loads(output)
        used = {node["id"] for node in metadata["resolve"]["nodes"]}
        for package in metadata["packages"]:
            if package["id"] in used and package["source"] is not None:
                packages[package["id"]] = package
    return packages.values()


def main():
    refused = []
    packages = sorted(dependencies(), key=lambda package: package["name"])
    for package in packages:
        licence = package["license"]
        if licence is None or not is_allowed(licence):
            refused.append(f"{package['name']} {package['version']}: {licence or 'no licence'}")
    for line in refused:
        print(line, file=sys.stderr)
    print(f"{len(packages)} dependencies, {len(refused)} with a licence that is not allowed")
    return 1 if refused else 0


sys.exit(main())

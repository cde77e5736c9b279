"""Runs a program without io_uring, as Docker's default seccomp profile does.

    seccomp.py refuse PROGRAM ARGUMENT…   io_uring_setup, _enter and _register fail with EPERM
    seccomp.py kill PROGRAM ARGUMENT…     whoever calls one of them is killed by SIGSYS
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# io_uring_setup, io_uring_enter, io_uring_register have one number on every architecture.
FIRST, LAST = 425, 427
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[platform.machine()]

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
ACTION = {"refuse": 0x00050000 | errno.EPERM, "kill": KILL_PROCESS}

LOAD_WORD, EQUAL, AT_LEAST, ABOVE, RETURN = 0x20, 0x15, 0x35, 0x25, 0x06
NUMBER_AT, ARCH_AT = 0, 4

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


class Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def instructions(action):
    """What the kernel runs at each call: code, jumps if true and if false, operand."""
    code = [
        (LOAD_WORD, 0, 0, ARCH_AT),
        (EQUAL, 1, 0, AUDIT_ARCH),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD_WORD, 0, 0, NUMBER_AT),
        (AT_LEAST, 0, 2, FIRST),
        (ABOVE, 1, 0, LAST),
        (RETURN, 0, 0, action),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *one) for one in code), len(code)


def main():
    mode, *command = sys.argv[1:]
    code, length = instructions(ACTION[mode])
    program = Program(length, code)
    libc = ctypes.CDLL(None, use_errno=True)
    unused = ctypes.c_ulong(0)
    for option, first, second in [
        (PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), unused),
        (PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program)),
    ]:
        if libc.prctl(option, first, second, unused, unused) != 0:
            error = ctypes.get_errno()
            sys.exit(f"seccomp.py: prctl({option}): {os.strerror(error)}")
    os.execvp(command[0], command)


main()

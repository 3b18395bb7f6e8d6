"""A thread that cannot reach the internet, for libraries that report their use."""

import ctypes
import errno
import platform
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

from synth_pipeline.errors import StageError

# Of each architecture: its number in the audit interface, and its system call `socket`.
_SOCKET_CALL = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_AF_INET, _AF_INET6 = 2, 10
# Classic BPF (linux/bpf_common.h) and what a filter answers (linux/seccomp.h).
_LOAD, _IF_EQUAL, _ANSWER = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
# Offsets in `struct seccomp_data`.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def offline_worker() -> ThreadPoolExecutor:
    """One thread that cannot reach the internet; the threads that it starts cannot either.

    MediaPipe 1.2.2 reports its use to https://play.googleapis.com/log (its privacy notice of June
    2026; google-ai-edge/mediapipe issue 6291). Measured: none of its options keeps it from looking
    that address up, and it reads no environment variable for it. So the kernel forbids it. Other
    threads keep their network, and a caller's progress may need it.

    Raises:
        StageError: this system cannot forbid it, so the work must not be done here.
    """
    if sys.platform != "linux" or platform.machine() not in _SOCKET_CALL:
        raise StageError(
            "MediaPipe reports its use to Google, and only Linux on x86_64 or aarch64 lets us "
            "forbid it; find the landmarks there, for instance in a container."
        )
    worker = ThreadPoolExecutor(1, thread_name_prefix="offline")
    try:
        worker.submit(_forbid_internet).result()
    except OSError as error:
        worker.shutdown()
        raise StageError(
            f"The kernel refused a seccomp filter ({error.strerror}), without which MediaPipe "
            "would report its use to Google; allow seccomp in this container."
        ) from None
    return worker


def _forbid_internet() -> None:
    """Let `socket` fail for IPv4 and IPv6, in this thread and those that it starts, for good."""
    architecture, socket_call = _SOCKET_CALL[platform.machine()]
    # The two numbers after a comparison are how many lines to skip if equal, and if not.
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 0, 6, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, 0, 4, socket_call),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_IF_EQUAL, 1, 0, _AF_INET),
        (_IF_EQUAL, 0, 1, _AF_INET6),
        (_ANSWER, 0, 0, _FAIL | errno.EACCES),
        (_ANSWER, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("<HBBI", *line) for line in lines)
    kept = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(lines), ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, errno.errorcode.get(number, str(number)))

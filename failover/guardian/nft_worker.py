"""The process behind `failover.guardian.nft`: libnftables, one command at a time, over the socket on descriptor 0.

Started as a plain script (`python -I -S`), so it imports nothing of this package and is up in some 20 ms. Ends with its
parent: end of file on the socket. Request: length, text. Answer: return code, length and text of output and of error.
"""

import ctypes
import os
import signal
import struct
import sys

REQUEST = struct.Struct("!I")
ANSWER = struct.Struct("!iII")


def _library() -> ctypes.CDLL:
    nft = ctypes.CDLL("libnftables.so.1")
    nft.nft_ctx_new.restype = ctypes.c_void_p
    nft.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(nft, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(nft, name).argtypes = [ctypes.c_void_p]
        getattr(nft, name).restype = ctypes.c_char_p
    nft.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return nft


def _read(size: int) -> bytes:
    """Exactly `size` bytes, or the end of this process when the parent is gone."""
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            sys.exit(0)
        data += piece
    return data


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(0, data) :]


def main() -> None:
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)  # a stop of the whole service must not disarm the parent's last commands
    nft = _library()
    context = nft.nft_ctx_new(0)
    if not context or nft.nft_ctx_buffer_output(context) or nft.nft_ctx_buffer_error(context):
        sys.exit(3)
    while True:
        (size,) = REQUEST.unpack(_read(REQUEST.size))
        code = nft.nft_run_cmd_from_buffer(context, _read(size))
        output = nft.nft_ctx_get_output_buffer(context) or b""
        error = nft.nft_ctx_get_error_buffer(context) or b""
        _write(ANSWER.pack(code, len(output), len(error)) + output + error)


if __name__ == "__main__":
    main()

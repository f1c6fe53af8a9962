"""The protocol between the array and a node: messages, framing, connection state.

Sans-I/O: bytes in, events out, for both roles.  `PROTOCOL.md` beside this file is the format page.
"""

"""Messages between Syncpoint's processes: the port `ports.Link` over Unix sockets and mutual TLS.

    framing.py handshake.py peers.py backoff.py   pure: bytes, the greeting, who may talk, when to try again
    settings.py addresses.py tls.py               configuration, checked at the start
    connection.py                                 one connection: frames in and out, batching, signs of life
    outgoing.py inbox.py                          the two bounded queues
    sockets.py listening.py dialling.py           who opens connections
    stream.py                                     StreamLink, on an event loop
    threaded.py                                   ThreadedLink: the same in a thread, for blocking programs

docs/link.md says what goes over the wire, byte by byte. Not for: what the messages mean.
"""

"""Bytes: the frames of the protocol, cut, built and read."""

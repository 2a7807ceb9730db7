"""Where a server's password comes from: providers, and the keyring that keeps what they gave."""

from pgambassador.auth.wallet import Wallet


def test_the_newest_counts() -> None:
    wallet = Wallet()
    wallet.put("main", "app", b"old")
    wallet.put("main", "app", b"new")
    assert wallet.get("main", "app") == b"new"
    assert wallet.get("other", "app") is None
    assert wallet.get("main", "ap") is None


def test_what_was_not_used_goes_first() -> None:
    wallet = Wallet(size=2)
    wallet.put("main", "a", b"secret")
    wallet.put("main", "b", b"secret")
    wallet.get("main", "a")
    wallet.put("main", "c", b"secret")
    assert [wallet.get("main", name) is not None for name in "abc"] == [True, False, True]
    assert repr(wallet) == "<Wallet 2 of 2>"

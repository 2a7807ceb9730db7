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


def test_what_lasts_longer_stays() -> None:
    wallet = Wallet()
    wallet.put("main", "app", b"token", 100.0)
    wallet.put("main", "app", b"earlier token", 90.0)
    assert wallet.get("main", "app") == b"token"
    wallet.put("main", "app", b"later token", 110.0)
    assert wallet.get("main", "app") == b"later token"
    wallet.put("main", "app", b"password")
    wallet.put("main", "app", b"token", 120.0)
    assert wallet.get("main", "app") == b"password"


def test_what_was_refused_goes() -> None:
    wallet = Wallet()
    wallet.put("main", "app", b"new")
    wallet.drop("main", "app", b"old")
    assert wallet.get("main", "app") == b"new"
    wallet.drop("main", "app", b"new")
    wallet.drop("main", "app", b"new")
    assert len(wallet) == 0

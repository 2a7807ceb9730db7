"""Which certificates are spoken of, and how often."""

from __future__ import annotations

from datetime import UTC, datetime

from pgambassador.auth.expiry import AHEAD, DAY, Ending, Reminder

NOW = datetime(2030, 1, 1, tzinfo=UTC).timestamp()


def test_not_before_two_weeks() -> None:
    reminder = Reminder()
    ending = Ending("", "tls.certificate", NOW + AHEAD)
    assert reminder.due([ending], NOW) == []
    assert reminder.due([ending], NOW + 1) == [
        "the certificate in the file of tls.certificate ends on 2030-01-15 00:00 UTC, in 13 days; renew it"
    ]


def test_once_a_day_and_after_the_end() -> None:
    reminder = Reminder()
    ending = Ending("main", "sslcert", NOW + 1.5 * DAY)
    said = [bool(reminder.due([ending], NOW + hour * 3600)) for hour in range(72)]
    assert [hour for hour, spoken in enumerate(said) if spoken] == [0, 24, 48]
    assert reminder.due([ending], NOW + 3 * DAY) == [
        "cluster main: the certificate in the file of sslcert ended on 2030-01-02 12:00 UTC; renew it"
    ]


def test_a_new_certificate_is_another_one() -> None:
    reminder = Reminder()
    assert reminder.due([Ending("", "tls.certificate", NOW + DAY)], NOW)
    assert not reminder.due([Ending("", "tls.certificate", NOW + 365 * DAY)], NOW + 1)
    assert repr(reminder) == "<Reminder of 0>"
    (said,) = reminder.due([Ending("", "tls.certificate", NOW + DAY + 2)], NOW + 2)
    assert "in 1 day;" in said

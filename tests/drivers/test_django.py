"""Django's ORM on its own PostgreSQL backend, with psycopg; settings and models are all here.

Django tells users of transaction pooling to turn server-side cursors off. Here they are on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import django
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.apps import AppConfig
from django.conf import settings

from tests.drivers.places import MANY, Place, when_running


class Drivers(AppConfig):  # type: ignore[misc]
    """This file as an application of Django's: only those know the relations between their models."""

    name = __name__
    label = "drivers"
    path = str(Path(__file__).parent)


settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "replaced by each test"}},
    INSTALLED_APPS=[f"{__name__}.Drivers", "django.contrib.contenttypes", "django.contrib.auth"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    SECRET_KEY="of no use",
    LOGGING_CONFIG=None,
)
django.setup()

from django.contrib.postgres.fields import ArrayField  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import DatabaseError, IntegrityError, OperationalError, connections, models, transaction  # noqa: E402
from django.db.backends.base.base import BaseDatabaseWrapper  # noqa: E402
from django.db.models import F, Sum  # noqa: E402


class Owner(models.Model):  # type: ignore[misc]
    name = models.CharField(max_length=100, unique=True)

    class Meta:
        app_label = "drivers"
        db_table = "django_owner"


class Thing(models.Model):  # type: ignore[misc]
    owner = models.ForeignKey(Owner, models.CASCADE, related_name="things")
    price = models.DecimalField(max_digits=20, decimal_places=4, default=Decimal(0))
    at = models.DateTimeField(null=True)
    day = models.DateField(null=True)
    span = models.DurationField(null=True)
    key = models.UUIDField(null=True)
    data = models.BinaryField(null=True)
    document = models.JSONField(null=True)
    tags = ArrayField(models.TextField(null=True), null=True)

    class Meta:
        app_label = "drivers"
        db_table = "django_thing"


def connect(place: Place, **options: Any) -> BaseDatabaseWrapper:
    """Django's default connection leads to the place."""
    connections["default"].close()
    connections.settings["default"] |= {
        "NAME": place.database,
        "USER": place.user,
        "PASSWORD": place.password,
        "HOST": place.host,
        "PORT": place.port,
        "OPTIONS": options,
    }
    del connections["default"]
    return connections["default"]


@pytest.fixture(scope="module")
def tables(place: Place) -> Iterator[None]:
    """Made and dropped by Django."""
    with connect(place).schema_editor() as editor:
        editor.create_model(Owner)
        editor.create_model(Thing)
    yield
    with connect(place).schema_editor() as editor:
        editor.delete_model(Thing)
        editor.delete_model(Owner)
    connections["default"].close()


@pytest.fixture
def connection(place: Place, tables: None) -> Iterator[BaseDatabaseWrapper]:
    """With values in the text of statements, as Django does it, and in two places as parameters."""
    wrapper = connect(place, server_side_binding=place.database in ("three", "session"))
    yield wrapper
    wrapper.close()
    Owner.objects.all().delete()
    wrapper.close()


def make(number: int) -> Owner:
    owner: Owner = Owner.objects.create(name=f"näme {number}")
    return owner


def test_values_of_many_types(connection: BaseDatabaseWrapper) -> None:
    values: dict[str, Any] = {
        "price": Decimal("-123456789012.0987"),
        "at": datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=UTC),
        "day": date(9999, 12, 31),
        "span": timedelta(days=-3, microseconds=4),
        "key": uuid.UUID(int=5),
        "document": {"list": [1, None, {"ä": "'"}]},
        "tags": ["ä", None, 'a "b", {c}'],
    }
    owner = make(1)
    for _ in range(3):
        thing = Thing.objects.create(owner=owner, data=bytes(range(256)), **values)
        assert Thing.objects.filter(pk=thing.pk).values(*values).get() == values
        assert bytes(Thing.objects.get(**values, pk=thing.pk).data) == bytes(range(256))
        assert Thing.objects.filter(document__list__2__ä="'", tags__contains=["ä"]).exists()
        thing.delete()
    assert Thing.objects.create(owner=owner).data is None


def test_atomic_blocks_in_atomic_blocks(place: Place, connection: BaseDatabaseWrapper) -> None:
    for turn in place.turns(4):
        with transaction.atomic():
            make(turn)
            for _ in range(2):
                with pytest.raises(IntegrityError) as caught, transaction.atomic():
                    make(turn)
                assert caught.value.__cause__ is not None
                assert getattr(caught.value.__cause__, "sqlstate", None) == "23505"
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                make(turn + 100)
                raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            Owner.objects.all().delete()
            raise ZeroDivisionError
        assert Owner.objects.count() == turn + 1


def test_what_happens_after_a_commit(connection: BaseDatabaseWrapper) -> None:
    done: list[int] = []
    with transaction.atomic():
        make(1)
        transaction.on_commit(lambda: done.append(Owner.objects.count()))
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("select txid_current_if_assigned() is not null")
            assert cursor.fetchone() == (True,)
        assert done == []
    assert done == [1]


def test_statements_go_over_every_server_connection(place: Place, connection: BaseDatabaseWrapper) -> None:
    """In autocommit, as a view without a transaction does."""
    owners = [make(n) for n in range(12)]
    pids = set()
    for turn in place.turns(12):
        assert Owner.objects.get(name=f"näme {turn}").pk == owners[turn].pk
        Owner.objects.filter(pk=owners[turn].pk).update(name=F("name"))
        with connection.cursor() as cursor:
            cursor.execute("select pg_backend_pid(), %s, current_setting('timezone')", [turn])
            pid, number, zone = cursor.fetchone()
            assert (int(number), zone) == (turn, "UTC")  # Django sets it when it connects
            pids.add(pid)
    assert len(pids) == place.connections


def test_many_rows_at_once(connection: BaseDatabaseWrapper) -> None:
    owners = Owner.objects.bulk_create([Owner(name=f"{n}") for n in range(1000)], batch_size=300)
    assert len({owner.pk for owner in owners}) == 1000
    with pytest.raises(IntegrityError):
        Owner.objects.bulk_create([Owner(name="new"), Owner(name="5"), Owner(name="newer")], batch_size=1)
    assert Owner.objects.count() == 1000
    Owner.objects.bulk_create([Owner(name="5"), Owner(name="newer")], ignore_conflicts=True)
    Thing.objects.bulk_create(Thing(owner=owner, price=1) for owner in owners)
    changed = list(Thing.objects.select_related("owner")[:200])
    for thing in changed:
        thing.price += 1
    assert Thing.objects.bulk_update(changed, ["price"]) == 200
    assert Thing.objects.aggregate(total=Sum("price"))["total"] == 1200
    assert len(Owner.objects.prefetch_related("things").filter(things__price=2).distinct()) == 200


def test_server_side_cursors_in_and_out_of_transactions(
    place: Place, connection: BaseDatabaseWrapper
) -> None:
    """Outside they are WITH HOLD."""
    Owner.objects.bulk_create([Owner(name=f"{n:04}") for n in range(1000)])
    names = Owner.objects.order_by("name").values_list("name", flat=True)
    for _ in place.turns(3):
        assert list(names.iterator(chunk_size=70)) == [f"{n:04}" for n in range(1000)]
        with transaction.atomic():
            assert len(list(names.iterator(chunk_size=70))) == 1000
        for number, name in enumerate(names.iterator(chunk_size=10)):
            if number % 100 == 5:
                Owner.objects.filter(name=name).update(name=name)
            if number == 500:
                break


def test_a_big_result(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        cursor.execute("select n, 'row ' || n from generate_series(1, %s::int) n", [MANY])
        rows = cursor.fetchall()
    assert len(rows) == MANY and rows[-1] == (MANY, f"row {MANY}")


def test_rows_are_locked_until_the_transaction_ends(connection: BaseDatabaseWrapper) -> None:
    make(0)
    failures: list[BaseException] = []

    def work() -> None:
        """With a connection of its own, as each thread has."""
        try:
            for _ in range(10):
                with transaction.atomic():
                    owner = Owner.objects.select_for_update().get()
                    owner.name += "x"
                    owner.save()
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert Owner.objects.get().name == "näme 0" + "x" * 30


def test_the_asynchronous_interface(place: Place, connection: BaseDatabaseWrapper) -> None:
    async def main() -> None:
        for n in range(5):
            await Owner.objects.acreate(name=f"{n}")
        assert [owner.name async for owner in Owner.objects.order_by("name")] == list("01234")
        assert await Owner.objects.filter(name__gt="2").acount() == 2
        await sync_to_async(connections.close_all)()  # that of the thread behind it all

    asyncio.run(main())


def test_copies(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        with cursor.copy("copy django_owner (name) from stdin") as copy:
            for n in range(1000):
                copy.write_row((f"{n}",))
        assert Owner.objects.count() == 1000
        with cursor.copy("copy (select name from django_owner order by id) to stdout") as copy:
            assert [name for (name,) in copy.rows()] == [f"{n}" for n in range(1000)]


def test_errors_leave_the_connection_usable(connection: BaseDatabaseWrapper) -> None:
    with connection.cursor() as cursor:
        for query, code in (
            ("selec 1", "42601"),
            ("select 1/0", "22012"),
            ("select * from no_such", "42P01"),
        ):
            with pytest.raises(DatabaseError) as caught:
                cursor.execute(query)
            assert getattr(caught.value.__cause__, "sqlstate", None) == code
            assert Owner.objects.count() == 0
    assert connection.is_usable()


def test_a_cancelled_query(
    place: Place, connection: BaseDatabaseWrapper, observer: psycopg.Connection
) -> None:
    text = f"django at {place.port} {place.database}"
    connection.ensure_connection()
    with (
        when_running(observer, text, connection.connection.cancel),
        pytest.raises(OperationalError) as caught,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"select pg_sleep(30), '{text}'")
    assert getattr(caught.value.__cause__, "sqlstate", None) == "57014"
    assert Owner.objects.count() == 0


def test_tables_as_the_catalogue_describes_them(connection: BaseDatabaseWrapper) -> None:
    out = io.StringIO()
    call_command("inspectdb", "django_owner", "django_thing", stdout=out)
    text = out.getvalue()
    assert "price = models.DecimalField(max_digits=20, decimal_places=4)" in text
    assert "owner = models.ForeignKey(DjangoOwner, models.DO_NOTHING)" in text


def test_migrations_forth_and_back(connection: BaseDatabaseWrapper) -> None:
    """Django's own applications: tables, constraints, permissions."""
    from django.contrib.auth.models import Permission, User

    call_command("migrate", verbosity=0)
    try:
        assert Permission.objects.count() > 0
        user = User.objects.create_user("somebody", password="secret")
        assert User.objects.get(username="somebody").check_password("secret")
        user.user_permissions.set(Permission.objects.all()[:3])
        assert user.user_permissions.count() == 3
        call_command("migrate", "auth", "zero", verbosity=0)
    finally:
        with connection.cursor() as cursor:
            names = connection.introspection.table_names(cursor)
            for name in names:
                if name.startswith(("auth_", "django_content", "django_migrations")):
                    cursor.execute(f"drop table {name} cascade")


def test_a_wrong_password_and_an_unknown_database_are_refused(place: Place, places: dict[str, Place]) -> None:
    nowhere = dataclasses.replace(places["three"], database="nowhere")
    wrong = dataclasses.replace(place, password="wrong")
    for where, text in (
        (wrong, "password authentication failed"),
        (nowhere, 'database "nowhere" does not exist'),
    ):
        with pytest.raises(OperationalError, match=text):
            connect(where).ensure_connection()
    connections["default"].close()

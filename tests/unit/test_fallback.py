"""The configuration file that was good last: when it is used, and what of it is never kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgambassador.config import Config, load
from pgambassador.config.file import read_text
from pgambassador.errors import ConfigError
from pgambassador.net.names import AGE
from pgambassador.process.fallback import KIND, Fallback, Read, secrets
from pgambassador.process.store import Kept, Store

CONFIG = Path(__file__).resolve().parents[2] / "config"
GOOD = "clusters: {main: {url: 'postgresql://app@db.example/shop'}}\npool: {size: 7}\n# hunter2\n"


class Scene:
    def __init__(self, folder: Path) -> None:
        self.now = 1_700_000_000.0
        self.file = folder / "c.yaml"
        self.environ: dict[str, str] = {}
        self.useless: set[int] = set()
        self.store = Store(str(folder / "state"), lambda: self.now)

    def load(self, read: Read) -> Config:
        return load(path=str(self.file), environ=self.environ, read=read)

    def prove(self, config: Config) -> None:
        if config.pool.size in self.useless:
            raise ConfigError("with that no process could start.")

    def start(self, text: str | None) -> tuple[Config, Fallback]:
        """With this in the file; what there is to keep is kept."""
        self.file.unlink(missing_ok=True)
        if text is not None:
            self.file.write_text(text)
        fallback = Fallback(self.load, str(self.file), self.store, self.prove, lambda: self.now)
        config = fallback.first()
        self.keep(fallback)
        return config, fallback

    def keep(self, fallback: Fallback) -> None:
        if (kept := fallback.kept()) is not None:
            self.store.write(KIND, kept)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.mark.parametrize("bad", [None, "", "clusters: {", "clusters: {main: {url: 1}}", "- a"])
def test_the_last_good_one(scene: Scene, bad: str | None) -> None:
    config, fallback = scene.start(GOOD)
    assert fallback.why == ""
    scene.now += 3600
    last, fallback = scene.start(bad)
    assert last == config and last.pool.size == 7
    assert "of 2023-11-14 22:13 UTC, because the present one cannot be used: " in fallback.why
    with pytest.raises(ConfigError):
        fallback.again()
    assert fallback.why
    scene.file.write_text(GOOD.replace("7", "8"))
    assert fallback.again().pool.size == 8
    fallback.accepted()
    assert fallback.why == ""
    scene.keep(fallback)
    assert scene.start(bad)[0].pool.size == 8


def test_one_that_no_process_could_start_with(scene: Scene) -> None:
    scene.start(GOOD)
    scene.useless = {8}
    config, fallback = scene.start(GOOD.replace("7", "8"))
    assert config.pool.size == 7 and "no process could start" in fallback.why
    assert scene.start(None)[0].pool.size == 7
    scene.useless = {7, 8}
    with pytest.raises(ConfigError, match="no process could start"):
        scene.start(GOOD.replace("7", "8"))


def test_without_one_the_error_stays(scene: Scene) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        scene.start(None)


def test_a_reload_that_was_not_accepted_is_not_kept(scene: Scene) -> None:
    _, fallback = scene.start(GOOD)
    scene.file.write_text(GOOD.replace("7", "8"))
    fallback.again()
    scene.keep(fallback)
    assert scene.start(None)[0].pool.size == 7


def test_its_time_runs_out(scene: Scene) -> None:
    """Starts that go by it do not make it younger."""
    scene.start(GOOD)
    scene.now += AGE - 10
    scene.start(None)
    scene.now += 20
    with pytest.raises(ConfigError, match="cannot be read"):
        scene.start(None)


def test_only_for_the_same_file(scene: Scene) -> None:
    scene.start(GOOD)
    scene.file = scene.file.with_name("other.yaml")
    with pytest.raises(ConfigError, match=r"other\.yaml cannot be read"):
        scene.start(None)


def test_the_environment_counts_as_ever(scene: Scene) -> None:
    scene.start(GOOD)
    scene.environ["PGAMBASSADOR_POOL__SIZE"] = "9"
    assert scene.start(None)[0].pool.size == 9
    scene.environ["PGAMBASSADOR_POOL__SIZE"] = "x"
    with pytest.raises(ConfigError, match="cannot be read"):
        scene.start(None)


@pytest.mark.parametrize("body", [1, None, [], {}, {"path": 1}, {"path": "", "file": "{}"}])
@pytest.mark.parametrize("text", ["", "[", "1", "[]", '{"clusters": 1}', '{"pool": {"size": "x"}}', 3])
def test_what_is_no_configuration(scene: Scene, body: Any, text: Any) -> None:
    if isinstance(body, dict) and "path" in body:
        body = {"path": str(scene.file), "file": text}
    scene.store.write(KIND, Kept(scene.now, body))
    with pytest.raises(ConfigError, match="cannot be read"):
        scene.start(None)


def test_nothing_but_what_the_file_means_is_kept(scene: Scene) -> None:
    scene.start(GOOD)
    assert "hunter2" not in (Path(scene.store.directory) / KIND).read_text()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("clusters: {main: {url: 'postgresql://app:hunter2@db/x'}}", ["clusters.main.url"]),
        ("clusters: {main: {url: 'postgresql://db/x?password=hunter2'}}", ["clusters.main.url"]),
        ("clusters: {main: {url: 'postgresql://db/x?pass%77ord=hunter2'}}", ["clusters.main.url"]),
        ("clusters: {main: {url: 'db=hunter2'}}", ["clusters.main.url"]),
        ("clusters: {main: {url: [hunter2]}}", ["clusters.main.url"]),
        ("clusters: {a.b: {credentials: {password: hunter2}}}", ["clusters.a.b.credentials.password"]),
        (
            "clusters: {main: {credentials: {password: 'postgresql://x/y'}}}",
            ["clusters.main.credentials.password"],
        ),
        ("auth: {users: {alice: hunter2, bob: 'SCRAM-SHA-256$x'}}", ["auth.users.alice", "auth.users.bob"]),
        (
            "clusters: {main: {credentials: {provider: vault, token: hunter2}}}",
            ["clusters.main.credentials.provider", "clusters.main.credentials.token"],
        ),
        (
            "clusters: {main: {credentials: {provider: vault, path: a}}}",
            ["clusters.main.credentials.provider"],
        ),
        ("unheard: {of: hunter2}", ["unheard.of"]),
        ("auth: {users_file: users.txt, map: {a: b}, admins: [c], rules: [{method: trust}]}", []),
        ("clusters: {main: {credentials: {provider: file, path: /run/secrets/db}}}", []),
        (GOOD, []),
    ],
)
def test_secrets(scene: Scene, text: str, found: list[str]) -> None:
    assert list(secrets(read_text(text, "f"))) == found


def test_of_a_file_with_secrets_nothing_is_kept(scene: Scene) -> None:
    scene.start(GOOD)
    _, fallback = scene.start(GOOD.replace("app@", "app:hunter2@"))
    assert fallback.secrets == ["clusters.main.url"]
    assert "hunter2" not in (Path(scene.store.directory) / KIND).read_text()
    with pytest.raises(ConfigError, match="cannot be read"):
        scene.start(None)  # what was kept before is not the last good one either


def test_every_option_of_the_reference_that_is_secret_is_known_to_be() -> None:
    tree = read_text((CONFIG / "reference.yaml").read_text("utf-8"), "reference.yaml")
    assert list(secrets(tree)) == []

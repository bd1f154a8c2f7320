"""The forms in a real browser: each changed, saved and in force; checked while typed; conflicts; history."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from perdure.domain.configuration import (
    CheckpointConfiguration,
    LogConfiguration,
    ServerConfiguration,
    StoreConfiguration,
    SystemConfiguration,
)
from perdure.records.schema.database import reading
from perdure.records.settings.configuration import current_configuration, newest_configuration
from perdure.waiting import until
from tests.browser.network import Network
from tests.browser.serving import Serving, serving
from tests.browser.stories import Story, record
from tests.integration.test_configuration_api import certificate
from tests.patience import PATIENCE

Configuration = Callable[[str], Page]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, network: Network, address: str) -> Iterator[Serving]:
    level = logging.getLogger().level
    with serving(tmp_path_factory.mktemp("console"), network) as server:
        yield server
    logging.getLogger().setLevel(level)  # the application follows the configured one


@pytest.fixture
def configuration(page: Page, server: Serving) -> Callable[[str], Page]:
    """Opens a tab of the configuration, which is the default one."""
    server.configure(SystemConfiguration())

    def opened(tab: str) -> Page:
        page.goto(f"{server.url}/configuration?tab={tab}")
        return page

    return opened


def held(server: Serving) -> SystemConfiguration:
    with reading(server.engine) as session:
        return current_configuration(session)


def field(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=False).first


def save(page: Page) -> Locator:
    """Review and save; returns the word that it was done."""
    page.get_by_role("button", name="Review changes").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_be_hidden()
    return page.get_by_text(": saved")


def in_force(page: Page, server: Serving, *settings: str) -> None:
    """The page of a job that begins now says that these hold for it, and that the system's configuration says so."""
    job_id = record(server.engine, Story(f"in-force-{secrets.token_hex(4)}", datetime.now(UTC)).arrive())
    page.goto(f"{server.url}/jobs/{job_id}")
    page.get_by_role("tab", name="Settings").click()
    for setting in settings:
        expect(page.get_by_role("row", name=f"{setting} System configuration")).to_be_visible()


def test_checkpoints_are_reviewed_saved_and_in_the_history(configuration: Configuration, server: Serving) -> None:
    page = configuration("checkpoint")
    field(page, "Interval").fill("10m")
    page.get_by_label("Checkpoints per job").fill("4")
    page.get_by_role("checkbox", name="Diagnosis").click()
    page.get_by_role("button", name="Review changes").click()
    dialog = page.get_by_role("dialog")
    for words in ("15 min", "10 min", "Checkpoints per job", "off", "on", "from now on"):
        expect(dialog.get_by_text(words, exact=False).first).to_be_visible()
    assert held(server).checkpoint == CheckpointConfiguration(), "nothing is saved yet"
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Checkpoint: saved")).to_be_visible()
    assert held(server).checkpoint == CheckpointConfiguration(interval_seconds=600, keep=4, diagnosis=True)
    expect(field(page, "Interval")).to_have_value("10m")
    in_force(
        page, server, "Checkpoint: Interval 10 min", "Checkpoint: Checkpoints per job 4", "Checkpoint: Diagnosis on"
    )
    page.goto(f"{server.url}/configuration?tab=history")
    newest = page.get_by_role("table").first
    expect(newest.get_by_role("row", name="Checkpoint: Interval 15 min 10 min")).to_be_visible()
    expect(page.get_by_text("local · version").first).to_be_visible()


def test_the_job_volume_with_its_tags(configuration: Configuration, server: Serving) -> None:
    page = configuration("job_volume")
    expect(page.get_by_text("100 GiB, 183 MiB/s: $0.014 an hour")).to_be_visible()
    page.get_by_label("Size").fill("250")
    page.get_by_role("button", name="Type").click()
    page.get_by_role("option", name="gp2").click()
    page.get_by_role("button", name="Add a tag").click()
    page.get_by_role("textbox", name="Name").fill("team")
    page.get_by_role("textbox", name="Value").fill("genomics")
    page.get_by_label("Scratch folders").fill("/scratch\n/work")
    expect(save(page)).to_be_visible()
    volume = held(server).job_volume
    assert (volume.size_gib, volume.volume_type, volume.tags) == (250, "gp2", {"team": "genomics"})
    assert volume.scratch == ["/scratch", "/work"]
    in_force(
        page, server, "Job volume: Size 250 GiB", "Job volume: Type gp2", "Job volume: Custom tags team = genomics"
    )


def test_the_store_of_jobs_without_a_volume(configuration: Configuration, server: Serving) -> None:
    page = configuration("store")
    page.get_by_role("button", name=re.compile("^Store")).click()
    page.get_by_role("option", name="directory").click()
    expect(page.get_by_text("kind directory needs a directory").first).to_be_visible()
    page.get_by_role("textbox", name="Directory").fill("/checkpoints")
    expect(save(page)).to_be_visible()
    assert held(server).store == StoreConfiguration(kind="directory", directory="/checkpoints")
    in_force(page, server, "Store: Store directory", "Store: Directory /checkpoints")


def test_the_log_is_in_force_within_seconds(configuration: Configuration, server: Serving) -> None:
    page = configuration("log")
    page.get_by_role("button", name="Level").click()
    page.get_by_role("option", name="error").click()
    page.get_by_label("File size", exact=False).first.fill("20")
    expect(save(page)).to_be_visible()
    assert held(server).log == LogConfiguration(level="error", max_size_mb=20)
    until(lambda: logging.getLogger().level == logging.ERROR, PATIENCE, what="the level of the log")


def test_the_server_reads_the_certificate_first(configuration: Configuration, server: Serving, tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path, "perdure.example", days=(-1, 400))
    page = configuration("server")
    page.get_by_label("Certificate file").fill(cert_file)
    expect(page.get_by_text("go together").first).to_be_visible()
    page.get_by_label("Private key file").fill("/nowhere/server.key")
    expect(page.get_by_text("/nowhere/server.key").first).to_be_visible()
    expect(page.get_by_role("button", name="Review changes")).to_be_disabled()
    page.get_by_label("Private key file").fill(key_file)
    expect(page.get_by_text("they belong together")).to_be_visible()
    expect(page.get_by_text("CN=perdure.example")).to_be_visible()
    page.get_by_label("Jobs that succeeded").fill("96h")
    expect(save(page)).to_be_visible()
    expect(page.get_by_text("takes effect after a restart").first).to_be_visible()
    wanted = ServerConfiguration(cert_file=cert_file, key_file=key_file, keep_succeeded_seconds=96 * 3600)
    assert held(server).server == wanted


def test_what_would_be_refused_is_said_while_it_is_typed(configuration: Configuration, server: Serving) -> None:
    page = configuration("checkpoint")
    page.get_by_label("Checkpoints per job").fill("99")
    expect(page.get_by_text("less than or equal to 20")).to_be_visible()
    field(page, "Interval").fill("soon")
    expect(page.get_by_text("'soon' is not a duration")).to_be_visible()
    expect(page.get_by_role("button", name="Review changes")).to_be_disabled()
    page.get_by_role("button", name="Discard changes").click()
    expect(page.get_by_label("Checkpoints per job")).to_have_value("2")
    expect(page.get_by_text("is not a duration")).to_be_hidden()


@pytest.mark.expects("status of 412")
def test_somebody_saves_the_same_setting_meanwhile(configuration: Configuration, server: Serving) -> None:
    page = configuration("checkpoint")
    page.get_by_label("Checkpoints per job").fill("5")
    field(page, "Reserve").fill("128")
    page.get_by_role("button", name="Review changes").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("row", name="Checkpoint: Reserve")).to_be_visible()
    server.configure(SystemConfiguration(checkpoint=CheckpointConfiguration(keep=7, reserve_mib=96)), by="grace")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Somebody changed this meanwhile")).to_be_visible()
    expect(page.get_by_text("grace saved other values")).to_be_visible()
    assert held(server).checkpoint.keep == 7, "nothing of theirs was overwritten"
    page.get_by_role("radio", name="Theirs: 7").click()
    page.get_by_role("radio", name="Yours: 128 MiB").click()
    page.get_by_role("button", name="Go on with these values").click()
    expect(page.get_by_label("Checkpoints per job")).to_have_value("7")
    expect(save(page)).to_be_visible()
    assert (held(server).checkpoint.keep, held(server).checkpoint.reserve_mib) == (7, 128)


@pytest.mark.expects("status of 412")
def test_somebody_saves_another_setting_meanwhile(configuration: Configuration, server: Serving) -> None:
    page = configuration("checkpoint")
    with page.expect_response(re.compile("/configuration/check")):  # else its answer would tell before the save does
        page.get_by_label("Checkpoints per job").fill("5")
    server.configure(SystemConfiguration(checkpoint=CheckpointConfiguration(predump=False)), by="grace")
    page.get_by_role("button", name="Review changes").click()
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_text("Somebody changed other settings here meanwhile")).to_be_visible()
    page.get_by_role("button", name="Understood").click()
    expect(save(page)).to_be_visible()
    assert held(server).checkpoint == CheckpointConfiguration(keep=5, predump=False)


def test_a_draft_outlives_a_new_load(configuration: Configuration, server: Serving) -> None:
    page = configuration("checkpoint")
    page.get_by_label("Checkpoints per job").fill("6")
    expect(page.get_by_text("not saved").first).to_be_visible()
    page.reload()
    expect(page.get_by_label("Checkpoints per job")).to_have_value("6")
    with reading(server.engine) as session:
        assert newest_configuration(session).at < datetime.now(UTC)
    assert held(server).checkpoint.keep == 2


def test_by_keyboard_alone(configuration: Configuration, server: Serving) -> None:
    page = configuration("checkpoint")
    page.get_by_role("tab", name="Checkpoint").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Job volume")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Size")).to_be_visible()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value") == "0":  # by the job's memory
            break
    page.keyboard.press("Control+A")
    page.keyboard.type("120")
    expect(page.get_by_role("button", name="Review changes")).to_be_enabled()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Review changes":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("row", name="Job volume: Size")).to_be_visible()
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Save":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_text("Job volume: saved")).to_be_visible()
    assert held(server).job_volume.size_gib == 120

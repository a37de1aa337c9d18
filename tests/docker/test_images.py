"""The Dockerfile and what it copies, as far as that can be seen without an engine."""

from __future__ import annotations

import re

from tests.docker.files import ROOT, stages

STAGES = {name: (base, lines) for name, base, lines in stages()}


def test_all_stages_stand_on_the_base_image_that_is_asked_for() -> None:
    bases = {base for base, _ in STAGES.values()}

    assert bases - STAGES.keys() == {"${PYTHON_IMAGE}"}


def test_what_is_run_is_no_root_by_a_number() -> None:
    for stage in ("runtime", "loadtest"):
        users: list[str] = []
        base = stage
        while base in STAGES and not users:
            base, lines = STAGES[base]
            users = [line.split()[1] for line in lines if line.startswith("USER ")]
        assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", users[-1]), stage


def test_what_is_run_installs_nothing() -> None:
    """pip, its index and its cache stay in the builders."""
    for stage in ("runtime", "loadtest"):
        _, lines = STAGES[stage]
        assert not [line for line in lines if re.search(r"\bpip\b|PIP_|\bapt", line)], stage


def test_the_dependencies_are_the_pinned_ones() -> None:
    installs = [line for _, lines in STAGES.values() for line in lines if re.search(r"\bpip install\b", line)]

    assert installs
    assert all("-c constraints.txt" in line or "--no-deps" in line for line in installs)


def test_everything_that_is_copied_is_there_and_is_sent_to_the_engine() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copies = [line for _, lines in STAGES.values() for line in lines if re.match(r"COPY (?!--from)", line)]
    copied = {source for line in copies for source in line.split()[1:-1]}

    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)


def test_no_file_names_an_index_or_a_registry() -> None:
    for file in ("Dockerfile", "docker-compose.yml", "tests/docker/prometheus/Dockerfile"):
        hosts = re.findall(r"https?://([\w.-]+)", (ROOT / file).read_text("utf-8"))
        assert set(hosts) <= {"127.0.0.1", "n1", "n2", "n3"}, file

"""What records say about the machine."""

from __future__ import annotations

import pytest
import torch

from tcm_lab._utils.environment import environment, processor_name

MASKED = """processor\t: {number}
cpu family\t: {family}
model\t\t: {model}
model name\t: {name}
flags\t\t: fpu avx2
"""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("AMD EPYC", "AMD EPYC (family 25, model 17)"),
        ("AMD EPYC 9654 96-Core Processor", "AMD EPYC 9654 96-Core Processor"),
    ],
)
def test_a_name_that_generations_share_gets_family_and_model(name: str, shown: str) -> None:
    processors = [MASKED.format(number=i, family=25 + i, model=17 - i, name=name) for i in (0, 1)]
    assert processor_name("\n".join(processors)) == shown


def test_a_text_without_a_name_gives_none() -> None:
    assert processor_name("") == ""
    assert processor_name("Processor\t: AArch64 rev 4\n") == ""


def test_the_instructions_are_those_of_torch_and_a_cpus_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert environment().instructions == torch.backends.cpu.get_cpu_capability()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    assert environment("cuda").instructions == ""

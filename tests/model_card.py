"""What every embedded preset owes its readers: small weights, and a card that holds their hash and every figure."""

from __future__ import annotations

from medseg_cli import preset


def check_card(name: str, most_bytes: int, figure: str = ".4f") -> None:
    """The weights of a preset are small, and its card has their SHA-256, each figure and the command that makes it.

    Args:
        name: of the preset.
        most_bytes: its weights may have fewer.
        figure: format in which the card prints the preset's figures.
    """
    chosen = preset.find(name)
    assert chosen.weights_file is not None
    assert chosen.weights_file.stat().st_size < most_bytes
    card = chosen.weights_file.with_suffix(".md").read_text()
    assert chosen.weights_sha256
    assert chosen.weights_sha256 in card
    assert chosen.accuracy
    for number in chosen.accuracy:
        assert number.command in card
        assert format(number.value, figure) in card, number

"""What a recipe may say of its start: a name, or settings for key samples."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Tag

from attar.initialization.scoring import KeySamplesConfig
from attar.initialization.selection import Initialization


def _spelled_out(value: Any) -> Any:
    """The words key and hardest alone are settings of which no other is named."""
    return KeySamplesConfig(kind=value) if value in ("key", "hardest") else value


def _form(value: Any) -> str:
    return "name" if isinstance(value, str) else "settings"


#: "random", "herding", "k-centre", or a KeySamplesConfig, for which "key" and "hardest" may stand; or "noise": codes
#: drawn from N(0, 1), without a real image behind them.
Choice = Annotated[
    Annotated[Initialization | Literal["noise"], Tag("name")] | Annotated[KeySamplesConfig, Tag("settings")],
    Discriminator(_form),
    BeforeValidator(_spelled_out),
]

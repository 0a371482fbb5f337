from collections.abc import Callable
from typing import TypeVar

_Method = TypeVar("_Method", bound=Callable[..., object])

class Sender:
    def _attach(self, owner: object, native: int, send: int, /) -> None: ...

def keep(value: object, /) -> object: ...
def fast(function: _Method, /) -> _Method: ...

"""A batcher that tests step by hand, and consumers that remember what they were told."""

from dataclasses import dataclass, field, replace

import torch

from kastor.domain.errors import KastorError
from kastor.domain.generation import Chunk, FinishReason, Sampling
from kastor.models.render import Renderer
from kastor.serving.batching import Batcher, Ticket


@dataclass
class Heard:
    """What one consumer was told."""

    events: list[Chunk | KastorError] = field(default_factory=list)

    def __call__(self, event: Chunk | KastorError) -> None:
        self.events.append(event)

    @property
    def chunks(self) -> list[Chunk]:
        for event in self.events:
            if isinstance(event, KastorError):
                raise event
        return [event for event in self.events if isinstance(event, Chunk)]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def finish(self) -> FinishReason | None:
        return self.chunks[-1].finish_reason if self.chunks else None


@dataclass
class Stepper:
    """A batcher, and short ways to use it."""

    batcher: Batcher
    renderer: Renderer

    def ask(self, text: str, adapter: str | None = None, **sampling: object) -> tuple[Ticket, Heard]:
        heard = Heard()
        asked = replace(Sampling(temperature=0, max_output_tokens=12), **sampling)
        return self.batcher.submit(self.renderer.text(text), asked, adapter, heard), heard

    def steps(self, num_steps: int) -> None:
        with torch.inference_mode():
            for _ in range(num_steps):
                self.batcher.step()

    def answer(self, text: str, adapter: str | None = None, **sampling: object) -> Heard:
        _, heard = self.ask(text, adapter, **sampling)
        for _ in range(200):
            self.steps(1)
            if heard.events and (isinstance(heard.events[-1], KastorError) or heard.events[-1].finish_reason):
                return heard
        raise AssertionError("no end after 200 steps")

"""A batcher that tests step manually, and consumers that record the chunks they receive."""

from dataclasses import dataclass, field, replace

import torch

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.errors import KastorError
from kastor.domain.generation import Chunk, FinishReason, Sampling
from kastor.models.chat.render import Renderer
from kastor.serving.builtin.constrained_decoding import GrammarCompiler
from kastor.serving.builtin.continuous_batching import ContinuousBatcher
from kastor.serving.builtin.sequence import GenerationHandle


@dataclass
class ReceivedChunks:
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
    def texts(self) -> list[str]:
        """The text of each candidate."""
        indices = {chunk.index for chunk in self.chunks}
        return ["".join(c.text for c in self.chunks if c.index == index) for index in sorted(indices)]

    @property
    def num_ended(self) -> int:
        return sum(chunk.finish_reason is not None for chunk in self.chunks)

    @property
    def finish(self) -> FinishReason | None:
        return self.chunks[-1].finish_reason if self.chunks else None


@dataclass
class ManualBatcher:
    """A batcher, and short ways to use it."""

    batcher: ContinuousBatcher
    renderer: Renderer
    grammars: GrammarCompiler

    def ask(
        self, text: str, adapter: str | None = None, num_candidates: int = 1, **sampling: object
    ) -> tuple[GenerationHandle, ReceivedChunks]:
        heard = ReceivedChunks()
        asked = replace(Sampling(temperature=0, max_output_tokens=12), **sampling)
        grammar = None if asked.form is None else self.grammars.matcher(asked.form)
        ids = self.renderer.text(text)
        handle = self.batcher.submit(
            ids, asked, adapter and AdapterRef(adapter), heard, num_candidates=num_candidates, grammar=grammar
        )
        return handle, heard

    def steps(self, num_steps: int) -> None:
        with torch.inference_mode():
            for _ in range(num_steps):
                self.batcher.step()

    def answer(
        self, text: str, adapter: str | None = None, num_candidates: int = 1, **sampling: object
    ) -> ReceivedChunks:
        _, heard = self.ask(text, adapter, num_candidates, **sampling)
        for _ in range(200):
            self.steps(1)
            if heard.events and (isinstance(heard.events[-1], KastorError) or heard.num_ended == num_candidates):
                return heard
        raise AssertionError("no end after 200 steps")

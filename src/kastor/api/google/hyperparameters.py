"""Hyperparameters as messages of the wire: as a caller asks for them, and as a job trains with them."""

from kastor.api.http.protojson import Float32, Int32, ProtoModel
from kastor.domain.job import Hyperparameters, RequestedHyperparameters


class HyperparametersIn(ProtoModel):
    """Hyperparameters, as requested."""

    epoch_count: Int32 | None = None
    batch_size: Int32 | None = None
    learning_rate: Float32 | None = None
    learning_rate_multiplier: Float32 | None = None


class HyperparametersOut(ProtoModel):
    """Hyperparameters, resolved. Never a multiplier: the legacy SDK cannot read it (gemini-api.md §0.4)."""

    epoch_count: int
    batch_size: int
    learning_rate: Float32


def requested_hyperparameters(body: HyperparametersIn) -> RequestedHyperparameters:
    """The hyperparameters that the message requests; those that it leaves out are chosen by the service."""
    return RequestedHyperparameters(
        num_epochs=body.epoch_count,
        batch_size=body.batch_size,
        learning_rate=body.learning_rate,
        learning_rate_multiplier=body.learning_rate_multiplier,
    )


def hyperparameters_out(resolved: Hyperparameters) -> HyperparametersOut:
    """The message for a job's resolved hyperparameters."""
    return HyperparametersOut(
        epoch_count=resolved.num_epochs, batch_size=resolved.batch_size, learning_rate=resolved.learning_rate
    )

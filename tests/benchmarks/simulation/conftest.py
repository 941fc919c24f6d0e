"""A bundle, engines, and a loop that plays scripted latencies: those of the runtime's tests."""

from tests.runtime.conftest import bundle, write_bundle
from tests.runtime.policy.conftest import play, setting

__all__ = ["bundle", "play", "setting", "write_bundle"]

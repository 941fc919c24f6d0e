"""What the emulator takes for granted of PyCUDA, CUDA's driver and TensorRT, in one place.

A belief names the check of `benchmarks/gpu/driver.py` that asserts it on a device, and on the
emulator as well in a dry run; or says why none does. Where the emulator is stricter than a
device on purpose, so that a mistake shows in a test, there is nothing to assert. None of the
checks has yet run on a device.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Belief:
    """One thing that the emulator does because the real one is believed to.

    Attributes:
        text: the belief.
        where: module and name within `tests/emulator`, such as "streams.Streams.submit".
        check: the function that asserts it; None if none does.
        reason: why none does.
    """

    text: str
    where: str
    check: str | None = None
    reason: str = ""


_STRICT = "stricter on purpose: a device shows this seldom, or as wrong data"
_BOARD = "needs a Jetson: the GPU's memory is the host's there"
_TENSORRT = "needs TensorRT on a device: part `rtx`, if TensorRT-RTX takes the card; else a Jetson"

BELIEFS = (
    # devices
    Belief("init takes no flags; a Device needs it first", "copies.init",
           "cuda_must_be_initialised"),
    Belief("a number from count() on is an invalid device", "devices.Device",
           "a_device_that_is_not_there_is_refused"),
    Belief("a device tells its name, memory, SM, bus id, attributes", "devices.Device",
           "the_device_describes_itself"),
    Belief("versions: a tuple of three, and thousands plus tens", "copies.get_version",
           "the_device_describes_itself"),
    # contexts
    Belief("a call fails without a context that is current on its thread",
           "contexts.DriverState.check", "a_thread_without_a_context_is_refused"),
    Belief("a retained primary context is not current before push",
           "devices.Device.retain_primary_context", "a_context_is_current_once_it_is_pushed"),
    Belief("pop fails on an empty stack", "contexts.DriverState.pop",
           "popping_what_is_not_there_is_refused"),
    Belief("there is one primary context, which lives until its last release",
           "contexts.DriverState.make", "a_primary_context_is_one"),
    Belief("a primary context that was released stays on CUDA's own stack: calls fail",
           "contexts.DriverState.detach", "a_released_primary_context_is_left_on_the_stack"),
    Belief("a primary context that is dropped without detach is not released",
           "devices.Context.__del__",
           reason="it would stay for the rest of the process; an H200 showed it, PyCUDA 2026.1"),
    Belief("a context's memory is freed with it; freeing it later does nothing",
           "contexts.DriverState._release", "a_contexts_memory_goes_with_it"),
    Belief("the primary context's too: it takes along what leaked",
           "memory.DeviceMemory.free_all_of", "closing_gives_the_memory_back"),
    Belief("what another thread frees leaks, with a warning", "contexts.DriverState.activate",
           "what_another_thread_frees_leaks"),
    Belief("a context may be pushed on another thread, which then takes and frees memory",
           "contexts.DriverState.push", "another_thread_takes_and_frees_memory"),
    Belief("streams and events are freed under the same rule", "driver.Stream",
           reason="a leaked stream shows nowhere; PyCUDA's code is the same as for memory"),
    # memory
    Belief("mem_alloc refuses no bytes", "copies.mem_alloc", "no_bytes_are_refused"),
    Belief("addresses are multiples of 256", "memory.DeviceMemory.allocate",
           "addresses_are_aligned"),
    Belief("an address within an allocation tells its start and size",
           "copies.mem_get_address_range", "addresses_are_aligned"),
    Belief("mem_get_info follows allocations", "copies.mem_get_info", "memory_is_counted"),
    Belief("too little memory is pycuda's MemoryError, and the device works on",
           "copies.mem_alloc", "memory_ends_with_an_error_of_its_own"),
    Belief("garbage is collected before that", "copies.mem_alloc",
           "garbage_is_collected_before_memory_ends"),
    Belief("too little page-locked memory is pycuda's MemoryError", "copies.pagelocked_empty",
           reason="to provoke it would take the memory of everything else on the machine"),
    Belief("to free twice is an invalid handle", "driver.DeviceAllocation.free",
           "memory_is_freed_once"),
    Belief("pagelocked_empty: aligned to pages, any shape, C or F order, freed by its base",
           "copies.pagelocked_empty", "page_locked_memory_is_an_array"),
    Belief("freed page-locked memory can be read, and holds nothing useful",
           "memory.PageLocked.free", reason=f"{_STRICT}: here it ends the process"),
    Belief("new and freed memory holds NaN", "memory.DeviceMemory.poison", reason=_STRICT),
    Belief("no address is used twice, and none is one of the host's",
           "memory.DeviceMemory", reason=_STRICT),
    # copies
    Belief("copies take contiguous buffers only", "memory.host_span",
           "a_copy_takes_contiguous_buffers"),
    Belief("an address is an allocation or Python's own int; a stream is a Stream",
           "signatures.Types.convert", "a_call_takes_what_it_was_recorded_with"),
    Belief("copies and fills move the bytes that they say", "copies.memcpy_dtod_async",
           "copies_are_those_of_numpy"),
    Belief("asynchronous copies take page-locked memory only", "copies.memcpy_htod_async",
           reason="stricter on purpose: PyCUDA takes any, and then the copy is not asynchronous"),
    Belief("memcpy_htod has read its source when it returns", "copies.memcpy_htod",
           "a_plain_copy_has_read_its_source"),
    Belief("plain copies come after what blocking streams have queued", "copies.memcpy_dtoh",
           "a_plain_copy_waits_for_the_streams"),
    Belief("memcpy_dtod does not wait", "copies.memcpy_dtod",
           "a_copy_within_the_device_does_not_wait"),
    # streams and events
    Belief("the null stream and ordinary streams wait for each other, non-blocking ones do not",
           "streams.Streams.submit", "the_null_stream_and_others_wait_for_each_other"),
    Belief("streams do not wait for each other", "streams.Streams.drain",
           "streams_do_not_wait_for_each_other"),
    Belief("wait_for_event orders later work after an event", "driver.Stream.wait_for_event",
           "streams_do_not_wait_for_each_other"),
    Belief("is_done and query say whether work is waiting", "driver.Event.query",
           "what_is_queued_is_asked_for"),
    Belief("work runs no earlier than somebody waits for it", "streams.Work", reason=_STRICT),
    Belief("a destroyed stream still does what was queued", "streams.Streams.close",
           "a_dropped_stream_still_does_its_work"),
    Belief("freeing memory waits for all work", "driver.DeviceAllocation.free",
           "freeing_waits_for_the_work"),
    Belief("times: refused before the record, before the event and without timing",
           "driver.Event.time_since", "events_tell_the_time_once_they_have_happened"),
    Belief("all of this is enough for `Device`", "modules.pycuda_modules",
           "the_products_device_does_its_work"),
    Belief("and for the ring of frames", "modules.pycuda_modules",
           "the_ring_on_the_device_gives_its_frames"),
    # failures
    Belief("a copy from freed memory is an error", "memory.DeviceMemory.array",
           "a_bad_address_is_noticed"),
    Belief("that any bad copy ends the device, at the synchronise", "memory.DeviceMemory.array",
           reason="the driver may refuse such a copy at once; a kernel ends the device surely"),
    Belief("a failed kernel shows at the next synchronise and in every call; freeing is quiet",
           "contexts.DriverState.check_device", "a_failure_ends_the_device"),
    Belief("a kernel's illegal address is a LogicError", "errors.cuda_error",
           "a_failure_ends_the_device"),
    Belief("another failure of a kernel is a LaunchError", "errors.cuda_error",
           reason="PyCUDA's source says so; no kernel here fails in that way"),
    # TensorRT
    Belief("a plan is refused by another version or SM, and without a CUDA context",
           "engine.Runtime.deserialize_cuda_engine", reason=_TENSORRT),
    Belief("TensorRT runs in the context that PyCUDA made current", "machine.Machine.context",
           reason=_TENSORRT),
    Belief("the refitter asks for the weights that the parser named, and no others",
           "refitter.Refitter.get_all_weights", reason=_TENSORRT),
    Belief("so too for integers on which only shapes depend; those cannot be marked one by one",
           "graph.Graph", reason="that they cannot, the real TensorRT-RTX builder says; that they "
           f"are asked for is the worst case. {_TENSORRT}"),
    Belief("quantisation without zero points is to INT8, and zero points of zeros become float "
           "constants of the parser's own, which an engine asks for; others are refused",
           "graph.set_zero_points", reason="the real TensorRT-RTX parser says so, but for what an "
           f"engine asks for. {_TENSORRT}"),
    Belief("float weights that are quantised, and scales, are refitted as any others; what was "
           "INT8 in the plan is quantised anew", "graph.Graph", reason="that they are refittable, "
           f"the real TensorRT-RTX parser says. {_TENSORRT}"),
    Belief("an engine whose weights were marked one by one asks for those alone",
           "builder.Builder.build_serialized_network", reason=_TENSORRT),
    Belief("TensorRT takes all device memory through an allocator that it was given, on any thread",
           "values.Allocating", reason=_TENSORRT),
    Belief("its own allocator gets less on a board than there is", "machine.Machine",
           reason=_BOARD),
    Belief("RTX compiles kernels at the first run, and takes them from a cache that fits",
           "engine.IRuntimeCache", reason=_TENSORRT),
    Belief("other weights under REFIT_IDENTICAL give wrong answers without a word",
           "refitter.Refitter.refit_cuda_engine", reason=_TENSORRT),
    Belief("refitted weights may lie on the device until the refit",
           "refitter.Refitter.set_named_weights", reason=_TENSORRT),
    Belief("engines that run one at a time may share scratch memory",
           "execution.IExecutionContext.set_device_memory", reason=_TENSORRT),
    Belief("a run overwrites its scratch memory and nothing else", "execution.IExecutionContext",
           reason=_TENSORRT),
    Belief("a build needs memory and has phases as the emulated one", "builder.Builder",
           reason=_TENSORRT),
)  # fmt: skip

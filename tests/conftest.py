"""Settings that every test shares: the hypothesis profiles, and a skip for what needs a CUDA device.

Hypothesis runs without deadlines (a test never asserts a time). In CI (the variable ``CI`` is set) its examples are
drawn from a fixed seed, so that a red run can be repeated; elsewhere they differ from run to run and widen what was
tried.
"""

from __future__ import annotations

import ctypes
import gc
import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def cuda_device_count() -> int:
    """Return how many CUDA devices the driver sees; 0 without a driver.

    The driver itself is asked, so PyCUDA may be absent.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    n_devices = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(n_devices)) != 0:
        return 0
    return n_devices.value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``gpu`` where there is no device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and cuda_device_count() == 0:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish() -> None:
    """Take what all tests have in common out of the collector's sight: many of them collect, to see what they leave."""
    gc.collect()
    gc.freeze()

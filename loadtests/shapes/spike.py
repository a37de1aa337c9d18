"""`locust -f loadtests/locustfile.py,loadtests/shapes/spike.py`: see spike() in plans.py."""

from loadtests.shapes import plans
from loadtests.shapes.planned import PlannedShape


class Spike(PlannedShape):
    """The shape `spike`."""

    plan = staticmethod(plans.spike)

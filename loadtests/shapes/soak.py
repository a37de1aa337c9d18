"""`locust -f loadtests/locustfile.py,loadtests/shapes/soak.py`: see soak() in plans.py."""

from loadtests.shapes import plans
from loadtests.shapes.planned import PlannedShape


class Soak(PlannedShape):
    """The shape `soak`."""

    plan = staticmethod(plans.soak)

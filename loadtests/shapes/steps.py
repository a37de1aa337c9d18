"""`locust -f loadtests/locustfile.py,loadtests/shapes/steps.py`: see steps() in plans.py."""

from loadtests.shapes import plans
from loadtests.shapes.planned import PlannedShape


class Steps(PlannedShape):
    """The shape `steps`."""

    plan = staticmethod(plans.steps)

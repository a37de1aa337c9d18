"""Load on a kvstore cluster, for Locust.

    locust -f loadtests/locustfile.py                                              # web interface, nodes of `make run`
    locust -f loadtests/locustfile.py --nodes http://a:7001,http://b:7001 -u 50 -t 2m --headless
    locust -f loadtests/locustfile.py,loadtests/shapes/spike.py -u 200 -t 10m --headless --csv out/spike --html out.html

docs/loadtest.md says more.
"""

from locust import stats

from loadtests.users.hot_key import HotKeyUser
from loadtests.users.locks import LockUser
from loadtests.users.read_mostly import ReadMostlyUser
from loadtests.users.write_heavy import WriteHeavyUser

stats.CSV_STATS_FLUSH_INTERVAL_SEC = 1  # whoever follows the files sees them grow

__all__ = ["HotKeyUser", "LockUser", "ReadMostlyUser", "WriteHeavyUser"]

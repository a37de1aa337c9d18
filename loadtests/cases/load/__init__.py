"""What makes the load: wrk for closed loops, a generator of our own for fixed arrival rates, and the filling."""

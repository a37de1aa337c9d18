"""How many users there are, when. Give one of these files to Locust beside the locustfile."""

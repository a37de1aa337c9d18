"""What must hold under any load. Nothing here knows Locust: users tell what they did, and violations come back."""

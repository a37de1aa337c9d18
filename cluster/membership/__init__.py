"""Who is a member, who holds what, and who seems to be alive."""

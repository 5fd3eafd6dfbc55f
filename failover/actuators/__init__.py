"""Things that change the world outside the databases: fencing, VIP, DNS, notices."""

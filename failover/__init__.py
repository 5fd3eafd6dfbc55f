"""Automated failover for PostgreSQL, MySQL and MariaDB: controllers that fence, promote and re-route, and can say why."""

__version__ = "0.1.0"

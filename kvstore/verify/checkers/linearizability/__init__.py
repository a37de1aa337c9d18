"""Is there an order of one register's operations that explains every answer? Pure: no clock, no files."""

"""What must survive a crash: requests and their answers, in SQLite or Postgres."""

"""Number formats, from a row of the table to tiles in memory."""

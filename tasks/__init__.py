"""One thin Prefect task for each stage: its name, its retries, its progress. No arithmetic."""

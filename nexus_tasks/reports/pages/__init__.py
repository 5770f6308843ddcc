"""Pages of reports, a package each: tables, figures and the sentences that open it."""

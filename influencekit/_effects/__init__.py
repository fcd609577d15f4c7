"""What an example does to a query: to first order by a backward sweep, exactly by retraining."""

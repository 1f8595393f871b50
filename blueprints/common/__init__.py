"""What the features share: fields, the resource, problems, paging, idempotency."""

"""A follower's side of an audit: whether the copy equals the vessel's tables at one number, and where it differs.

A verdict needs three comparisons. The records of the rows (`arus_row`) are compared with the vessel's digest at exactly
the digest's number (`ledger`), over the fields that both sides have (`fields`). The vessel's rows in the tables are
compared with their records (`verification`), which finds rows that somebody has changed or deleted without the
follower. And rows that belong to no vessel are looked for (`orphans`). Differing rows are named (`verdicts`), and their
buckets are requested from the vessel again, unless that can't help (`audits`).
"""

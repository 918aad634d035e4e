-- Yesterday's export, and today's rows: only texts that are new go through the model.

-- Vectors are kept in this folder, by any query and any later run: an export that is killed goes on where it was.
SET embed.cache = 'target/vectors';

COPY (
  SELECT id, body, embed(body) AS vector
  FROM 'sql/docs.parquet'
  WHERE trim(body) <> '' AND id <= 60
  ORDER BY id
) TO 'target/yesterday.parquet';

-- Today some texts have changed and some rows are new. The whole export again costs just those.
CREATE VIEW today AS
SELECT id, CASE WHEN id % 30 = 1 THEN concat(body, ' (revised)') ELSE body END AS body
FROM 'sql/docs.parquet'
WHERE trim(body) <> '' AND id <= 70;

COPY (SELECT id, body, embed(body) AS vector FROM today ORDER BY id) TO 'target/today.parquet';

-- Which rows have another vector than yesterday, or none then.
SELECT t.id, y.id IS NULL AS is_new
FROM 'target/today.parquet' AS t
LEFT JOIN 'target/yesterday.parquet' AS y ON t.id = y.id
WHERE y.id IS NULL OR cosine_similarity(t.vector, y.vector) < 0.99999
ORDER BY t.id;

-- The same without a folder: vectors come from yesterday's file where the text is in it.
SELECT count(*) AS rows, count(v.vector) AS with_vector
FROM (
  SELECT t.id, coalesce(y.vector, embed(t.body)) AS vector
  FROM today AS t
  LEFT JOIN 'target/yesterday.parquet' AS y ON t.id = y.id AND t.body = y.body
) AS v;

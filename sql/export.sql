-- Compute the vectors once, keep them in a Parquet file, and search in that file later.

-- COPY does not promise an order of rows without ORDER BY. It prints the number of rows written.
COPY (
  SELECT id, title, embed(body) AS vector
  FROM 'sql/docs.parquet'
  WHERE trim(body) <> ''
  ORDER BY id
) TO 'target/vectors.parquet';

-- The file keeps the type of the vectors.
SELECT id, title, arrow_typeof(vector) AS type
FROM 'target/vectors.parquet'
ORDER BY id
LIMIT 3;

-- Neighbours of article 1: the vectors come from the file and no model runs.
SELECT other.id, other.title, round(cosine_similarity(other.vector, this.vector), 2) AS score
FROM 'target/vectors.parquet' AS other
CROSS JOIN (SELECT vector FROM 'target/vectors.parquet' WHERE id = 1) AS this
WHERE other.id <> 1
ORDER BY score DESC, other.id
LIMIT 5;

-- A new question costs one embedding, that of the question.
SELECT id, title, round(cosine_similarity(vector, embed('cheap flights')), 2) AS score
FROM 'target/vectors.parquet'
ORDER BY score DESC, id
LIMIT 5;

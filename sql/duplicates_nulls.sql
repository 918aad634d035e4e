-- What happens to texts that are NULL, empty, blank or repeated.

-- NULL gives NULL. Empty and blank texts are texts and get a vector.
SELECT id, title, body IS NULL AS body_is_null, length(body) AS characters, embed(body) IS NULL AS vector_is_null
FROM 'sql/docs.parquet'
WHERE body IS NULL OR trim(body) = ''
ORDER BY id;

-- A NULL vector has a NULL score, and ORDER BY ... DESC puts NULL first. Say NULLS LAST, or filter.
SELECT id, title, round(cosine_similarity(embed(body), embed('concert in a barn')), 2) AS score
FROM 'sql/docs.parquet'
WHERE topic = 'music' AND lang = 'en'
ORDER BY score DESC NULLS LAST, id;

-- Texts that occur more than once. The model reads such a text once, each row gets its vector.
SELECT min(id) AS first_id, max(id) AS last_id, count(*) AS copies, left(body, 40) AS begins_with
FROM 'sql/docs.parquet'
WHERE trim(body) <> ''
GROUP BY body
HAVING count(*) > 1
ORDER BY first_id;

-- Every row of the file: how many vectors come back.
SELECT count(*) AS all_rows, count(body) AS texts, count(embed(body)) AS vectors
FROM 'sql/docs.parquet';

-- What the queries above have cost together.
SELECT rows_embedded, rows_duplicate FROM embed_models() ORDER BY model;

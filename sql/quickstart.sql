-- The first look: vectors from text, then a search by meaning.
SELECT id, title, embed(body) AS vector FROM 'sql/docs.parquet' LIMIT 3;

SELECT title, round(cosine_similarity(embed(body), embed('cheap flights')), 3) AS score
FROM 'sql/docs.parquet' WHERE body IS NOT NULL
ORDER BY score DESC LIMIT 5;

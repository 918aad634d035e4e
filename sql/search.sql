-- Search by meaning: in one language, behind an ordinary WHERE filter, and for a small
-- table of questions at once (the two best articles for each question).

-- One language only. The filter runs first, so only those articles are embedded. (The bundled
-- model has learned English; for other languages a multilingual model finds more.)
SELECT id, title, round(cosine_similarity(embed(body), embed('louer un appartement')), 2) AS score
FROM 'sql/docs.parquet'
WHERE lang = 'fr' AND body IS NOT NULL
ORDER BY score DESC, id
LIMIT 3;

-- Topic and year narrow the search down.
SELECT id, topic, year, title, round(cosine_similarity(embed(body), embed('I feel tired all the time')), 2) AS score
FROM 'sql/docs.parquet'
WHERE topic IN ('medicine', 'sports') AND year >= 2022 AND lang = 'en' AND body IS NOT NULL
ORDER BY score DESC, id
LIMIT 3;

-- A table of questions. embed_query and embed_document matter for models that expect
-- different prefixes on questions and on texts; for other models both are the same as embed.
WITH questions (question) AS (
  VALUES ('how do I stop my tomato plants from dying'),
         ('query optimizer pushes filters down'),
         ('my bicycle chain is worn out'),
         ('which bright lights in the sky are planets')
),
asked AS (
  SELECT question, embed_query(question) AS vector FROM questions
),
articles AS (
  SELECT id, title, embed_document(body) AS vector
  FROM 'sql/docs.parquet'
  WHERE trim(body) <> ''
),
scored AS (
  SELECT question, id, title, round(cosine_similarity(articles.vector, asked.vector), 2) AS score
  FROM asked CROSS JOIN articles
)
SELECT question, id, title, score
FROM scored
QUALIFY row_number() OVER (PARTITION BY question ORDER BY score DESC, id) <= 2
ORDER BY question, score DESC, id;

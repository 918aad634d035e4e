-- Texts that say nearly the same: pairs inside one topic, pairs in every topic, and the
-- nearest neighbours of one article.

-- Bug reports that were filed twice, once word for word and once with small changes.
WITH bugs AS (
  SELECT id, title, embed(body) AS vector
  FROM 'sql/docs.parquet'
  WHERE topic = 'software bugs' AND trim(body) <> ''
)
SELECT a.id, b.id AS other_id, a.title, b.title AS other_title,
       round(cosine_similarity(a.vector, b.vector), 2) AS score
FROM bugs AS a
JOIN bugs AS b ON a.id < b.id
WHERE cosine_similarity(a.vector, b.vector) > 0.95
ORDER BY score DESC, a.id, b.id;

-- The same for every topic, and whether the two texts are equal.
WITH articles AS (
  SELECT id, topic, body, embed(body) AS vector
  FROM 'sql/docs.parquet'
  WHERE trim(body) <> ''
)
SELECT a.topic, a.id, b.id AS other_id, a.body = b.body AS same_text,
       round(cosine_similarity(a.vector, b.vector), 2) AS score
FROM articles AS a
JOIN articles AS b ON a.topic = b.topic AND a.id < b.id
WHERE cosine_similarity(a.vector, b.vector) > 0.95
ORDER BY a.topic, a.id, b.id;

-- The nearest neighbours of article 2, which is about wilting tomato plants.
WITH articles AS (
  SELECT id, topic, title, embed(body) AS vector
  FROM 'sql/docs.parquet'
  WHERE trim(body) <> '' AND lang = 'en'
)
SELECT other.id, other.topic, other.title, round(cosine_similarity(other.vector, this.vector), 2) AS score
FROM articles AS this
JOIN articles AS other ON this.id <> other.id
WHERE this.id = 2
ORDER BY score DESC, other.id
LIMIT 5;

-- Texts longer than the model can read: find them, see what is cut off, and embed them by paragraph.

-- The bundled model reads 256 tokens, the two special ones included. embed_tokens counts before the cut.
SELECT id, lang, topic, title, embed_tokens(body) AS tokens
FROM 'sql/docs.parquet'
WHERE embed_tokens(body) > 256
ORDER BY tokens DESC, id;

-- A sentence added at the end of a long text lies behind the cut, so the vector stays the same.
-- In article 1, which is short, it is read.
SELECT id, embed_tokens(body) AS tokens,
       round(cosine_similarity(embed(body), embed(body || ' By the way, the soup needs more salt.')), 2) AS similarity
FROM 'sql/docs.parquet'
WHERE id = 1 OR embed_tokens(body) > 256
ORDER BY id;

-- A question that is answered in a last paragraph: the whole text misses it, a single paragraph finds it.
WITH paragraphs AS (
  SELECT id, title, body, unnest(string_to_array(body, chr(10) || chr(10))) AS paragraph
  FROM 'sql/docs.parquet'
  WHERE embed_tokens(body) > 256 AND lang = 'en'
)
SELECT id, title,
       round(max(cosine_similarity(embed(body), embed('who decides when two departments disagree'))), 2) AS whole_text,
       round(max(cosine_similarity(embed(paragraph), embed('who decides when two departments disagree'))), 2) AS best_paragraph
FROM paragraphs
GROUP BY id, title
ORDER BY best_paragraph DESC, id;

-- A lower limit is faster and reads less. With 32 tokens the end of that paragraph is cut off too.
SET embed.max_tokens = 32;

WITH paragraphs AS (
  SELECT id, title, unnest(string_to_array(body, chr(10) || chr(10))) AS paragraph
  FROM 'sql/docs.parquet'
  WHERE id = 185
)
SELECT id, title, max(embed_tokens(paragraph)) AS longest_paragraph,
       round(max(cosine_similarity(embed(paragraph), embed('who decides when two departments disagree'))), 2) AS best_paragraph
FROM paragraphs
GROUP BY id, title
ORDER BY id;

-- How many texts were cut in this session.
SELECT rows_truncated FROM embed_models() ORDER BY model;

-- Texts longer than the model can read: find them, see what is cut off, and embed them in parts.

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

-- So a long text is cut before it is embedded: at paragraphs and sentences where that is possible, here with up to 128 tokens, of which
-- up to 16 are those of the chunk before.
SELECT id, part.start, part.stop, part.tokens, replace(left(part.chunk, 30), chr(10), ' ') AS begins
FROM (SELECT id, unnest(embed_chunks(body, 128, 16)) AS part FROM 'sql/docs.parquet' WHERE id = 185)
ORDER BY part.start;

-- A question that is answered in a last paragraph: the whole text misses it, its best chunk has it. The average of all chunks stands
-- for the text as a whole, when one vector for each is wanted.
WITH chunks AS (
  SELECT id, title, body, unnest(embed_chunks(body, 128, 16)) AS part
  FROM 'sql/docs.parquet'
  WHERE embed_tokens(body) > 256 AND lang = 'en'
), scores AS (
  SELECT id, title, embed(body) AS whole, embed_document(part.chunk) AS vector,
         embed_query('who decides when two departments disagree') AS question
  FROM chunks
)
SELECT id, title, round(max(cosine_similarity(whole, question)), 2) AS whole_text,
       round(cosine_similarity(vector_avg(vector), vector_avg(question)), 2) AS average,
       round(max(cosine_similarity(vector, question)), 2) AS best_chunk
FROM scores
GROUP BY id, title
ORDER BY best_chunk DESC, id;

-- A lower limit is faster and reads less: chunks of whole texts fit it by themselves.
SET embed.max_tokens = 32;

SELECT id, count(*) AS chunks, max(part.tokens) AS longest
FROM (SELECT id, unnest(embed_chunks(body)) AS part FROM 'sql/docs.parquet' WHERE embed_tokens(body) > 256)
GROUP BY id
ORDER BY id;

-- How many texts were cut in this session.
SELECT rows_truncated FROM embed_models() ORDER BY model;
